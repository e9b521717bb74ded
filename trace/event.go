package trace

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Types of events: a span, and the name of a process or lane.
const (
	complete = "X"
	metadata = "M"
)

// Names in Event.Args.
const (
	argName    = "name"
	argSubject = "container"
)

// Event is a line of a trace: an event of the Trace Event Format.
type Event struct {
	Name string `json:"name"`
	Kind Kind   `json:"cat,omitempty"`
	Type string `json:"ph"`
	// Time and Duration are in microseconds.
	Time     float64           `json:"ts"`
	Duration float64           `json:"dur,omitempty"`
	Pid      int               `json:"pid"`
	Lane     int               `json:"tid"`
	Args     map[string]string `json:"args,omitempty"`
}

func (e *Event) end() float64 { return e.Time + e.Duration }

// micros rounds to whole nanoseconds, which is what three digits give.
func micros(ns int64) float64 { return float64(ns) / 1000 }

// maxFile bounds what is read of a trace, in bytes.
const maxFile = 256 << 20

// Read reads a trace. Lines that are cut off, by a full disk say, end it.
func Read(path string) ([]Event, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("trace: %s has %d bytes, more than %d", path, info.Size(), maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	events, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("trace: %s: %w", path, err)
	}
	return events, nil
}

func parse(b []byte) ([]Event, error) {
	if !bytes.HasPrefix(b, []byte(opening)) {
		return nil, errors.New("not a trace of this program")
	}
	var events []Event
	lines := strings.SplitAfter(string(b[len(opening):]), "\n")
	for i, line := range lines {
		text := strings.TrimSuffix(strings.TrimSpace(line), ",")
		if text == "" || text == "]" {
			continue
		}
		var e Event
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			if i == len(lines)-1 {
				break
			}
			return nil, fmt.Errorf("line %d: %w", i+2, err)
		}
		events = append(events, e)
	}
	slices.SortStableFunc(events, func(a, b Event) int {
		switch {
		case a.Time != b.Time:
			if a.Time < b.Time {
				return -1
			}
			return 1
		case a.Duration > b.Duration: // what holds the others comes first
			return -1
		case a.Duration < b.Duration:
			return 1
		}
		return 0
	})
	return events, nil
}
