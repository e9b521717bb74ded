package sandbox

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/trace"
)

// What a guest says of its spans is bounded, and shifted by the clocks'
// difference.
func TestAddGuestSpans(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	tr, err := trace.Open(path, "monitor", "c")
	if err != nil {
		t.Fatal(err)
	}
	now := trace.Now()
	const started, ms = 1_000_000_000, 1_000_000
	offset := int64(500 * ms)
	spans := []*api.Span{
		{Name: "good", Begin: 600 * ms, End: 700 * ms, Spawn: true},
		{Name: "of the template", Begin: 499 * ms, End: 700 * ms},
		{Name: "backwards", Begin: 700 * ms, End: 600 * ms},
		{Name: "of the future", Begin: 700 * ms, End: now + 1<<40},
		{Name: "overflowing", Begin: 1<<63 - 1, End: 1<<63 - 1},
		{Name: strings.Repeat("x", 1<<20), Begin: 800 * ms, End: 900 * ms, Lane: 1<<32 - 1},
	}
	for range 2 * maxGuestSpans {
		spans = append(spans, &api.Span{Name: "many", Begin: 900 * ms, End: 900 * ms})
	}
	addGuestSpans(tr, 77, "sb", started, offset, spans)
	tr.Close()
	events, err := trace.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	many := 0
	for _, e := range events {
		switch {
		case e.Type != "X":
		case e.Pid != 77 || e.Args["container"] != "c" || e.Lane >= maxGuestLanes:
			t.Errorf("%+v", e)
		case e.Name == "many":
			many++
		default:
			names = append(names, e.Name)
			if e.Name == "good" && (e.Time != 1100*1000 || e.Duration != 100*1000 || e.Kind != trace.Spawn) {
				t.Errorf("%+v", e)
			}
		}
	}
	if len(names) != 2 || names[0] != "good" || len(names[1]) != maxGuestName {
		t.Errorf("got %d spans, %.200q", len(names), names)
	}
	if many == 0 || len(names)+many > maxGuestSpans {
		t.Errorf("%d spans, at most %d expected", len(names)+many, maxGuestSpans)
	}
}
