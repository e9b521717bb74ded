package main

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vc-runtime/vc-runtime/trace"
)

// timeline traces the life of a container, of the runtimes that can, draws what
// took the time of its create, and traces an exec.
func (b *bench) timeline() error {
	for _, rt := range b.rts {
		if title(rt) != "vc-runtime" {
			continue
		}
		d, err := b.driver(rt, "timeline")
		if err != nil {
			return err
		}
		path := filepath.Join(b.dir, "trace.json")
		d.rt = append(d.rt[:len(d.rt):len(d.rt)], "--trace", path)
		if _, err := d.cycle(b.quick); err != nil {
			return err
		}
		events, err := trace.Read(path)
		if err != nil {
			return err
		}
		var text strings.Builder
		if err := trace.Summary(&text, events); err != nil {
			return err
		}
		fmt.Printf("A life of `true`, traced:\n\n```\n%s```\n", text.String())
		if b.svg != "" {
			if err := plotTimeline(events).write(b.svg, "timeline.svg"); err != nil {
				return err
			}
		}
		if err := b.execTimeline(rt); err != nil {
			return err
		}
	}
	return nil
}

// shortest is how long a span must be to be drawn, in µs.
const shortest = 2000

// plotTimeline draws the spans of a create, one a row, coloured by process.
func plotTimeline(events []trace.Event) *plot {
	names := map[int]string{}
	var create trace.Event
	for _, e := range events {
		if e.Name == "process_name" {
			names[e.Pid] = strings.TrimPrefix(e.Args["name"], "vc-runtime ")
		}
		if e.Kind == trace.Command && e.Name == "create" {
			create = e
		}
	}
	var rows []trace.Event
	var kinds []string // of processes, in the order of their first span
	colour := map[int]string{}
	for _, e := range events {
		if e.Type != "X" || e.Time < create.Time || e.Time > create.Time+create.Duration || e.Duration < shortest {
			continue
		}
		if colour[e.Pid] == "" {
			colour[e.Pid] = colours[len(kinds)%len(colours)]
			kind, _, _ := strings.Cut(names[e.Pid], " of ")
			kinds = append(kinds, kind)
		}
		rows = append(rows, e)
	}
	const row = 14
	p := newPlotOf("where the time of a create goes, ms", plotTop+row*len(rows)+plotBottom)
	p.legend(kinds)
	const left = 250
	scale := (plotWidth - left - plotRight) / max(1, create.Duration)
	bottom := float64(plotTop + row*len(rows))
	for at := 0.0; at <= create.Duration/1000; at += step(create.Duration / 1000) {
		x := left + at*1000*scale
		p.line(x, plotTop, x, bottom, "#dddddd")
		p.text(x, bottom+16, "middle", fmt.Sprintf("%.0f", at))
	}
	for i, e := range rows {
		y := float64(plotTop + row*i)
		p.text(left-8, y+11, "end", e.Name)
		// What outlasts the create is cut off.
		w := min(e.Duration, create.Time+create.Duration-e.Time) * scale
		p.box(left+(e.Time-create.Time)*scale, y+2, max(1, w), row-4, colour[e.Pid])
	}
	return p
}
