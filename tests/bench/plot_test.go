package main

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/trace"
)

// The plots are well-formed, and have a mark for each thing that was measured.
func TestPlots(t *testing.T) {
	b := &bench{rts: list{"/bin/a --x", "b<&"}, n: 3, counts: []int{1, 5, 20}, svg: filepath.Join(t.TempDir(), "plots")}
	times := samples{}
	for _, rt := range b.rts {
		times[rt] = map[string][]float64{}
		for i, phase := range phases {
			times[rt][phase] = []float64{float64(10 * i), float64(20 * i), float64(90 * i)}
		}
	}
	if err := b.plotPhases(times); err != nil {
		t.Fatal(err)
	}
	if err := b.plotMany(b.rts, map[string][][]float64{b.rts[0]: {{10, 9, 14}, {12}, {15}}, b.rts[1]: {{400}, {300}, {300, 200}}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]map[string]int{
		"phases.svg": {"rect": 1 + 4 + 4*2}, // background, legend, bars
		"many.svg":   {"rect": 1 + 2, "polyline": 2},
	} {
		raw, err := os.ReadFile(filepath.Join(b.svg, name))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for d := xml.NewDecoder(strings.NewReader(string(raw))); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok {
				got[e.Name.Local]++
			}
		}
		for element, n := range want {
			if got[element] != n {
				t.Errorf("%s: %d elements %s, expected %d", name, got[element], element, n)
			}
		}
		if !strings.Contains(string(raw), "b&lt;&amp;") {
			t.Errorf("%s: a runtime's name is missing", name)
		}
	}
}

func TestStep(t *testing.T) {
	for most, want := range map[float64]float64{1: 1, 8: 1, 9: 2, 100: 20, 570: 100, 6000: 1000} {
		if got := step(most); got != want {
			t.Errorf("step(%v) = %v, expected %v", most, got, want)
		}
	}
}

// A span is a bar in its process's colour; short ones and those that are not of
// the create are left out.
func TestTimeline(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	tr, err := trace.Open(path, "vc-runtime create", "c1")
	if err != nil {
		t.Fatal(err)
	}
	const ms = 1_000_000
	tr.NameProcess(7, "monitor of c1")
	tr.Add(1, 1, trace.Command, "create", 10*ms, 100*ms)
	tr.Add(7, 1, trace.Phase, "boot", 20*ms, 60*ms)
	tr.Add(7, 1, trace.Phase, "life", 90*ms, 600*ms)
	tr.Add(7, 1, trace.Phase, "short", 30*ms, 31*ms)
	tr.Add(7, 1, trace.Phase, "later", 200*ms, 300*ms)
	tr.Close()
	events, err := trace.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	svg := plotTimeline(events).String()
	for text, n := range map[string]int{"<rect": 1 + 2 + 3, ">boot<": 1, ">life<": 1, ">short<": 0, ">later<": 0, ">monitor<": 1} {
		if got := strings.Count(svg, text); got != n {
			t.Errorf("%s: %d times, expected %d\n%s", text, got, n, svg)
		}
	}
}
