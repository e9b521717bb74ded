package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/pull"
)

// How progress is shown.
const (
	progressAuto  = "auto"
	progressBar   = "bar"
	progressPlain = "plain" // a line for each change of a layer
	progressJSON  = "json"  // an object a line, for programs
	progressQuiet = "quiet"
)

// How often running numbers are shown.
const (
	barEvery  = 100 * time.Millisecond
	jsonEvery = 500 * time.Millisecond
)

// progress shows a pull. Many goroutines tell it.
type progress struct {
	how string
	out *os.File

	mu     sync.Mutex // guards what follows, and the output
	layers []digest.Digest
	state  map[digest.Digest]pull.Event
	shown  map[digest.Digest]time.Time // when a layer's bytes were last shown
	drawn  time.Time
	height int // lines of the bar

	warnings []error // to be shown after the end
}

func newProgress(how string, out *os.File) (*progress, error) {
	switch how {
	case progressAuto:
		how = progressQuiet
		if _, _, ok := terminalSize(out); ok {
			how = progressBar
		}
	case progressBar, progressPlain, progressJSON, progressQuiet:
	default:
		return nil, fmt.Errorf("invalid --progress %q: expected auto, bar, plain, json or quiet", how)
	}
	return &progress{how: how, out: out, state: map[digest.Digest]pull.Event{}, shown: map[digest.Digest]time.Time{}}, nil
}

// warn keeps what the user is to be told when nothing is drawn any more.
func (p *progress) warn(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.warnings = append(p.warnings, err)
}

// warn logs what did not keep a pull from succeeding, or from failing.
func (p *program) warn(warnings []error) {
	for _, err := range warnings {
		p.log.Warn(err)
	}
}

// terminalSize is how many columns and rows a terminal has; false for none.
func terminalSize(f *os.File) (columns, rows int, ok bool) {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, 0, false
	}
	columns, rows = int(size.Col), int(size.Row)
	if columns == 0 {
		columns, rows = 80, 24
	}
	return columns, rows, true
}

func (p *progress) event(e pull.Event) {
	if p.how == progressQuiet {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last, known := p.state[e.Digest]
	p.state[e.Digest] = e
	changed := !known || last.Phase != e.Phase
	now := time.Now()
	switch p.how {
	case progressPlain:
		if changed {
			fmt.Fprintf(p.out, "%s %s\n", e.Digest, phaseText(e))
		}
	case progressJSON:
		if changed || now.Sub(p.shown[e.Digest]) >= jsonEvery {
			p.shown[e.Digest] = now
			json.NewEncoder(p.out).Encode(e)
		}
	case progressBar:
		if !known && e.Phase == pull.Waiting {
			p.layers = append(p.layers, e.Digest)
		}
		if changed || now.Sub(p.drawn) >= barEvery {
			p.drawn = now
			p.draw()
		}
	}
}

// draw writes the bars over the last ones. Where there are more layers than
// lines, those that are done are left out.
func (p *progress) draw() {
	columns, rows, ok := terminalSize(p.out)
	if !ok {
		columns, rows = 80, 24
	}
	var text strings.Builder
	if p.height > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", p.height)
	}
	text.WriteString("\r\x1b[J")
	done, room := 0, max(rows-2, 1)
	p.height = 0
	for _, d := range p.layers {
		e := p.state[d]
		if e.Phase == pull.Done {
			done++
			if len(p.layers) > room {
				continue
			}
		}
		if p.height < room {
			text.WriteString(barLine(e, columns-1) + "\n")
			p.height++
		}
	}
	fmt.Fprintf(&text, "%d of %d layers\n", done, len(p.layers))
	p.height++
	p.out.WriteString(text.String())
}

// barLine is one layer: a short digest, a bar, and how far it has come.
func barLine(e pull.Event, width int) string {
	const barWidth = 30
	filled := barWidth
	if e.Phase == pull.Waiting || e.Phase == pull.Downloading {
		filled = 0
		if e.Total > 0 {
			filled = int(barWidth * e.Current / e.Total)
		}
	}
	line := fmt.Sprintf("%.12s [%s%s] %s", e.Digest.Encoded(), strings.Repeat("=", filled), strings.Repeat(" ", barWidth-filled), phaseText(e))
	return line[:min(len(line), max(width, 0))]
}

func phaseText(e pull.Event) string {
	if e.Phase == pull.Downloading {
		return fmt.Sprintf("%s %s/%s", e.Phase, bytesText(e.Current), bytesText(e.Total))
	}
	return string(e.Phase)
}

// end is after the last event.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.how == progressBar && len(p.layers) > 0 {
		p.draw()
	}
}
