package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// document is docs/conformance.md: a table of reasons, which is written by
// hand, and one of results behind the marker.
type document struct {
	path, text string
	reasons    []*reason
	results    []string
	better     int // programs with checks that only vc-runtime passes
}

const marker = "<!-- results: written by make conformance -->\n"

// reason is a row of the first table: why checks that runc passes fail.
type reason struct {
	program, check string // "*" at the end of a check stands for any text
	race           bool   // may pass, with luck
	used           bool
}

func readDocument(t *testing.T) *document {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	d := &document{path: filepath.Join(root, "docs", "conformance.md")}
	b, err := os.ReadFile(d.path)
	if err != nil {
		t.Fatal(err)
	}
	text, _, found := strings.Cut(string(b), marker)
	if !found {
		t.Fatalf("%s has no line %q", d.path, marker)
	}
	d.text = text
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| `") || len(cells) != 3 {
			continue
		}
		if strings.TrimSpace(cells[2]) == "" {
			t.Errorf("no reason: %s", line)
		}
		d.reasons = append(d.reasons, &reason{
			program: code(cells[0]), check: code(cells[1]),
			race: strings.HasPrefix(strings.TrimSpace(cells[2]), "a race"),
		})
	}
	return d
}

func code(cell string) string { return strings.Trim(strings.TrimSpace(cell), "`") }

func (d *document) explained(program, check string) bool {
	found := false
	for _, r := range d.reasons {
		prefix, open := strings.CutSuffix(r.check, "*")
		if r.program == program && (r.check == check || open && strings.HasPrefix(check, prefix)) {
			r.used, found = true, true
		}
	}
	return found
}

// races reports whether luck decides what comes of a program.
func (d *document) races(program string) bool {
	return slices.ContainsFunc(d.reasons, func(r *reason) bool { return r.program == program && r.race })
}

// add adds the results of a program.
func (d *document) add(t *testing.T, program string, runc, ours *result) {
	t.Helper()
	note := ""
	for _, check := range ours.lacks(runc) {
		note = "see above"
		if !d.explained(program, check) {
			t.Errorf("runc passes %q, vc-runtime does not", check)
		}
	}
	if d.races(program) { // what came of it this time says nothing
		d.results = append(d.results, fmt.Sprintf("| %s | varies | varies | see above |\n", program))
		return
	}
	if n := len(runc.lacks(ours)); n > 0 && note == "" {
		note = "more than runc"
		d.better++
	}
	d.results = append(d.results, fmt.Sprintf("| %s | %s | %s | %s |\n", program, runc.says(), ours.says(), note))
}

// finish looks for reasons that nothing needs, and writes the results.
func (d *document) finish(t *testing.T, programs int) {
	t.Helper()
	t.Logf("%d programs; vc-runtime passes more than runc in %d", len(d.results), d.better)
	if len(d.results) != programs {
		return // -run has left some out
	}
	for _, r := range d.reasons {
		if !r.used && !r.race {
			t.Errorf("docs/conformance.md: %s: %q is no longer lacking", r.program, r.check)
		}
	}
	if os.Getenv("VC_CONFORMANCE_WRITE") == "" {
		return
	}
	slices.Sort(d.results)
	table := "| program | runc | vc-runtime | |\n|---|---|---|---|\n" + strings.Join(d.results, "")
	if err := os.WriteFile(d.path, []byte(d.text+marker+"\n"+table), 0o644); err != nil {
		t.Error(err)
	}
}
