package main

import (
	"strings"
	"testing"
)

func TestGoals(t *testing.T) {
	theirs := []result{{wall: 10, cpu: 10}, {wall: 100, cpu: 100}, {wall: 1, cpu: 1}}
	good := []result{{wall: 9, cpu: 6, remove: 1, memory: 200}, {wall: 100, cpu: 59, remove: 0.5, memory: 100}, {wall: 5, cpu: 5, remove: 0.1, memory: 50}}
	for name, c := range map[string]struct {
		ours, theirs []result
		want         string // verdicts
	}{
		"met":                {good, theirs, "pass pass pass pass"},
		"without containerd": {good, nil, "pass pass"},
		"none":               {nil, nil, ""},
		"wall":               {[]result{{wall: 1.1, cpu: 0.1}}, theirs[2:], "FAIL pass pass pass"},
		"CPU":                {[]result{{wall: 0.1, cpu: 0.7}}, theirs[2:], "pass FAIL pass pass"},
		"removal":            {[]result{{remove: 1.1}}, theirs[2:], "pass pass FAIL pass"},
		"memory":             {[]result{{memory: 201}}, theirs[2:], "pass pass pass FAIL"},
	} {
		var out strings.Builder
		missed := printGoals(&out, "x", goalsOf(c.ours, c.theirs))
		var verdicts []string
		for line := range strings.Lines(out.String()) {
			cells := strings.Split(line, "|")
			verdicts = append(verdicts, strings.TrimSpace(cells[len(cells)-2]))
		}
		if got := strings.Join(verdicts, " "); got != c.want || missed != strings.Count(c.want, "FAIL") {
			t.Errorf("%s: %q, %d missed; want %q", name, got, missed, c.want)
		}
	}
}
