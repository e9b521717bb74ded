package main

import (
	"fmt"
	"html"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Sizes of a plot, in pixels.
const (
	plotWidth, plotHeight = 720, 300
	plotLeft, plotRight   = 110, 20
	plotTop, plotBottom   = 40, 40
)

// colours tell phases, or runtimes, apart; readable on white and for the
// colour-blind (Okabe and Ito).
var colours = []string{"#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"}

// plot collects the elements of an SVG.
type plot struct{ strings.Builder }

func newPlot(title string) *plot { return newPlotOf(title, plotHeight) }

func newPlotOf(title string, height int) *plot {
	p := new(plot)
	fmt.Fprintf(p, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n", plotWidth, height)
	fmt.Fprintf(p, "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n")
	p.text(plotLeft, 18, "start", title)
	return p
}

func (p *plot) text(x, y float64, anchor, text string) {
	fmt.Fprintf(p, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, html.EscapeString(text))
}

func (p *plot) line(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(p, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n", x1, y1, x2, y2, colour)
}

func (p *plot) box(x, y, w, h float64, colour string) {
	fmt.Fprintf(p, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", x, y, w, h, colour)
}

// legend names the colours.
func (p *plot) legend(names []string) {
	x := float64(plotLeft)
	for i, name := range names {
		p.box(x, plotTop-14, 10, 10, colours[i%len(colours)])
		p.text(x+14, plotTop-5, "start", name)
		x += 24 + 8*float64(len(name))
	}
}

func (p *plot) write(dir, name string) error {
	p.WriteString("</svg>\n")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(p.String()), 0o644)
}

// step is a round distance between marks on an axis that goes to most.
func step(most float64) float64 {
	s := 1.0
	for _, factor := range slices.Repeat([]float64{2, 2.5, 2}, 10) {
		if most/s <= 8 {
			break
		}
		s *= factor
	}
	return s
}

// plotPhases draws a bar for each runtime, made of the phases' medians, and a line
// from the least total to the most.
func (b *bench) plotPhases(times samples) error {
	if b.svg == "" {
		return nil
	}
	names := phases[:len(phases)-1] // without the total
	most := 1.0
	for _, rt := range b.rts {
		sum := 0.0
		for _, name := range names {
			sum += median(times[rt][name])
		}
		most = max(most, sum, slices.Max(times[rt]["total"]))
	}
	p := newPlot(fmt.Sprintf("create, start, wait, delete of `true`: medians of %d runs, ms; the least and the most", b.n))
	p.legend(names)
	scale := (plotWidth - plotLeft - plotRight) / most
	for at := 0.0; at <= most; at += step(most) {
		x := plotLeft + at*scale
		p.line(x, plotTop, x, plotHeight-plotBottom, "#dddddd")
		p.text(x, plotHeight-plotBottom+16, "middle", fmt.Sprintf("%.0f", at))
	}
	row := float64(plotHeight-plotTop-plotBottom) / float64(len(b.rts))
	for i, rt := range b.rts {
		y := plotTop + float64(i)*row
		p.text(plotLeft-8, y+row/2+4, "end", title(rt))
		x := float64(plotLeft)
		for j, name := range names {
			w := median(times[rt][name]) * scale
			p.box(x, y+row*0.15, w, row*0.7, colours[j])
			x += w
		}
		total := times[rt]["total"]
		p.line(plotLeft+slices.Min(total)*scale, y+row/2, plotLeft+slices.Max(total)*scale, y+row/2, "black")
	}
	return p.write(b.svg, "phases.svg")
}

// plotMany draws the cost of each container against how many start at once: a
// line through the medians, and from the least to the most at each.
func (b *bench) plotMany(rts []string, got map[string][][]float64) error {
	if b.svg == "" {
		return nil
	}
	most := 1.0
	for _, times := range got {
		most = max(most, slices.Max(slices.Concat(times...)))
	}
	p := newPlot("ms for each container, against how many start at once: medians, least and most")
	var names []string
	for _, rt := range rts {
		names = append(names, title(rt))
	}
	p.legend(names)
	y := func(ms float64) float64 { return plotHeight - plotBottom - ms*(plotHeight-plotTop-plotBottom)/most }
	x := func(n int) float64 {
		return plotLeft + float64(n)*(plotWidth-plotLeft-plotRight)/float64(slices.Max(b.counts))
	}
	for at := 0.0; at <= most; at += step(most) {
		p.line(plotLeft, y(at), plotWidth-plotRight, y(at), "#dddddd")
		p.text(plotLeft-8, y(at)+4, "end", fmt.Sprintf("%.0f", at))
	}
	for _, n := range b.counts {
		p.text(x(n), plotHeight-plotBottom+16, "middle", fmt.Sprint(n))
	}
	for i, rt := range rts {
		var points []string
		colour := colours[i%len(colours)]
		for j, times := range got[rt] {
			at := x(b.counts[j])
			points = append(points, fmt.Sprintf("%.1f,%.1f", at, y(median(times))))
			p.line(at, y(slices.Min(times)), at, y(slices.Max(times)), colour)
		}
		fmt.Fprintf(p, "<polyline points=\"%s\" fill=\"none\" stroke-width=\"2\" stroke=\"%s\"/>\n", strings.Join(points, " "), colour)
	}
	return p.write(b.svg, "many.svg")
}
