package fault

import (
	"fmt"
	"strings"
	"time"
)

// counts are what the whole matrix comes to.
type counts struct {
	cases, none   int
	state, delete times
}

// times are how long something took, in each case.
type times struct {
	bound   time.Duration // what is promised
	slowest time.Duration
	in      string   // the slowest case
	over    []string // cases in which it took longer than bound
}

func (s *times) add(m *matrix, took time.Duration) {
	name := string(m.point.Name) + "/" + m.fault
	if took > s.slowest {
		s.slowest, s.in = took, name
	}
	if took > s.bound {
		s.over = append(s.over, fmt.Sprintf("%s (%s)", name, took.Round(time.Millisecond)))
	}
}

func (s *times) String() string {
	text := fmt.Sprintf("slowest %s in %s; over %s in %d", s.slowest.Round(time.Millisecond), s.in, s.bound, len(s.over))
	if len(s.over) != 0 {
		text += ": " + strings.Join(s.over, ", ")
	}
	return text
}
