package compare

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// difference is a row of docs/differences.md.
type difference struct {
	cases string // a pattern of path.Match
	// runc and ours are patterns of lines that only that runtime gives: "*" is
	// any text.
	runc, ours []pattern
	reason     string
}

type pattern struct {
	text string
	used bool
}

// readDifferences reads the table: case, runc, vc-runtime, reason. Lines in a
// cell are separated by <br>, and each is quoted as code.
func readDifferences() ([]*difference, error) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(filepath.Join(root, "docs", "differences.md"))
	if err != nil {
		return nil, err
	}
	return parseDifferences(string(b))
}

func parseDifferences(text string) ([]*difference, error) {
	var rows []*difference
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "|"), `\|`, "\x00"), "|")
		if len(cells) != 4 {
			return nil, fmt.Errorf("a row with %d cells instead of 4: %s", len(cells), line)
		}
		d := &difference{cases: unquote(cells[0]), reason: strings.TrimSpace(cells[3])}
		if _, err := path.Match(d.cases, ""); err != nil {
			return nil, fmt.Errorf("%s: %w", d.cases, err)
		}
		if d.runc, d.ours = patterns(cells[1]), patterns(cells[2]); len(d.runc)+len(d.ours) == 0 || d.reason == "" {
			return nil, fmt.Errorf("a row without a difference, or a reason: %s", line)
		}
		rows = append(rows, d)
	}
	if len(rows) == 0 {
		return nil, errors.New("docs/differences.md has no table")
	}
	return rows, nil
}

func unquote(cell string) string {
	return strings.ReplaceAll(strings.Trim(strings.TrimSpace(cell), "`"), "\x00", "|")
}

func patterns(cell string) []pattern {
	var list []pattern
	for line := range strings.SplitSeq(cell, "<br>") {
		if line = unquote(line); line != "" {
			list = append(list, pattern{text: line})
		}
	}
	return list
}

// explain gives the lines that no row of the table accounts for. The caller
// holds what guards the table.
func explain(rows []*difference, name string, runc, ours []string) (string, bool) {
	var left strings.Builder
	look := func(sign string, lines []string, side func(*difference) []pattern) {
		for _, line := range lines {
			found := false
			for _, d := range rows {
				if ok, _ := path.Match(d.cases, name); !ok {
					continue
				}
				list := side(d)
				for i := range list {
					if wild(list[i].text, line) {
						list[i].used, found = true, true
					}
				}
			}
			if !found {
				left.WriteString(sign + line + "\n")
			}
		}
	}
	look("- ", runc, func(d *difference) []pattern { return d.runc })
	look("+ ", ours, func(d *difference) []pattern { return d.ours })
	return left.String(), left.Len() == 0
}

// wild matches text, in which "*" stands for anything, with all of s.
func wild(text, s string) bool {
	parts := strings.Split(text, "*")
	if len(parts) == 1 {
		return text == s
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, last)
}

// unused reports patterns that have not occurred, of rows whose cases have all
// run.
func unused(t *testing.T, rows []*difference, skipped []string) {
	for _, d := range rows {
		partial := false
		for _, name := range skipped {
			ok, _ := path.Match(d.cases, name)
			partial = partial || ok
		}
		if partial {
			continue
		}
		for _, p := range append(d.runc, d.ours...) {
			if !p.used {
				t.Errorf("docs/differences.md: %s: %q has not occurred", d.cases, p.text)
			}
		}
	}
}

// changes gives the lines of a that b lacks, and of b that a lacks, by a
// longest common subsequence, so that order counts.
func changes(a, b []string) (onlyA, onlyB []string) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a)*len(b) > 1<<20 { // too much for the table; the ends tell
		return []string{a[0], fmt.Sprintf("… %d lines", len(a)), a[len(a)-1]}, []string{b[0], fmt.Sprintf("… %d lines", len(b)), b[len(b)-1]}
	}
	length := make([][]int, len(a)+1)
	for i := range length {
		length[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				length[i][j] = length[i+1][j+1] + 1
			} else {
				length[i][j] = max(length[i+1][j], length[i][j+1])
			}
		}
	}
	i, j := 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			i, j = i+1, j+1
		case length[i+1][j] >= length[i][j+1]:
			onlyA = append(onlyA, a[i])
			i++
		default:
			onlyB = append(onlyB, b[j])
			j++
		}
	}
	return append(onlyA, a[i:]...), append(onlyB, b[j:]...)
}
