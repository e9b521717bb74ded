package trace

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// guestPrefix begins the name of a process of a trace that is a guest.
const guestPrefix = "guest of "

// GuestName is what the guest of a sandbox is called.
func GuestName(sandbox string) string { return guestPrefix + sandbox }

// Summary writes, for each command in the trace, how long it took, what it
// needed (processes started, requests to other processes) and what took the
// time: each span with when it began, in milliseconds.
func Summary(w io.Writer, events []Event) error {
	s := newSections(events)
	for i, sec := range s.list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := s.write(w, sec); err != nil {
			return err
		}
	}
	return nil
}

// section is a command and what belongs to it: all that was done for its
// container from its begin to that of the next command.
type section struct {
	command *Event // nil for what was before the first one
	spans   []Event
}

type sections struct {
	names map[int]string // of processes, by pid
	list  []*section
}

func newSections(events []Event) *sections {
	s := &sections{names: map[int]string{}}
	current := map[string]*section{} // by container
	for i := range events {
		e := &events[i]
		switch {
		case e.Type == metadata && e.Name == "process_name":
			s.names[e.Pid] = e.Args[argName]
		case e.Type != complete:
		default:
			subject := e.Args[argSubject]
			sec := current[subject]
			if sec == nil || e.Kind == Command {
				sec = &section{}
				if e.Kind == Command {
					sec.command = e
				}
				current[subject] = sec
				s.list = append(s.list, sec)
			}
			sec.spans = append(sec.spans, *e)
		}
	}
	return s
}

func (s *sections) write(w io.Writer, sec *section) error {
	begin := sec.spans[0].Time
	title, after := "without a command", 0.0
	if c := sec.command; c != nil {
		title = fmt.Sprintf("%s %s: %.1f ms", c.Name, c.Args[argSubject], c.Duration/1000)
		after = c.end()
	}
	fmt.Fprintf(w, "%s%s\n\n", plain(title), s.counts(sec))
	fmt.Fprintf(w, "%9s %9s  %-24s %s\n", "at", "took", "in", "what")
	depths := map[[2]int][]float64{} // ends of the spans that are open, by process and lane
	said := after == 0
	for _, e := range sec.spans {
		if !said && e.Time > after {
			said = true
			fmt.Fprintf(w, "%9.1f %9s  -- the command has returned\n", (after-begin)/1000, "")
		}
		row := [2]int{e.Pid, e.Lane}
		open := depths[row]
		for len(open) > 0 && open[len(open)-1] <= e.Time {
			open = open[:len(open)-1]
		}
		_, err := fmt.Fprintf(w, "%9.1f %9.1f  %-24s %s%s\n", (e.Time-begin)/1000, e.Duration/1000,
			shorten(plain(s.names[e.Pid]), 24), strings.Repeat("  ", len(open)), plain(e.Name))
		if err != nil {
			return err
		}
		depths[row] = append(open, e.end())
	}
	return nil
}

// counts says how many processes were started and requests made.
func (s *sections) counts(sec *section) string {
	host, guest := 0, 0
	calls := map[string]int{}
	total := 0
	for _, e := range sec.spans {
		switch e.Kind {
		case Spawn:
			if strings.HasPrefix(s.names[e.Pid], guestPrefix) {
				guest++
			} else {
				host++
			}
		case Call:
			to, _, _ := strings.Cut(e.Name, " ")
			calls[to]++
			total++
		}
	}
	var by []string
	for _, to := range slices.SortedFunc(maps.Keys(calls), func(a, b string) int {
		return cmp.Or(calls[b]-calls[a], cmp.Compare(a, b))
	}) {
		by = append(by, fmt.Sprintf("%s %d", plain(to), calls[to]))
	}
	text := fmt.Sprintf("; processes started: %d, in the guest %d; requests: %d", host, guest, total)
	if len(by) > 0 {
		text += " (" + strings.Join(by, ", ") + ")"
	}
	return text
}

// plain takes out what a terminal would obey: names may be a guest's.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

func shorten(s string, most int) string {
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
