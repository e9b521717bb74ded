package failpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestPoints compares the names with the table, and with the places in the
// code that have them.
func TestPoints(t *testing.T) {
	names := constants(t)
	listed := make(map[Name]int)
	for _, p := range slices.Concat(Points, SparePoints) {
		listed[p.Name]++
		if p.Process == "" || p.Verb == "" || p.Next == "" {
			t.Errorf("%s: incomplete", p.Name)
		}
		if verb, _, ok := strings.Cut(string(p.Name), "."); !ok || p.Process == Command && verb != string(p.Verb) && !strings.HasPrefix(string(p.Name), SpareSteps) {
			t.Errorf("%s: expected a name that begins with %s.", p.Name, p.Verb)
		}
	}
	used := uses(t)
	for ident, name := range names {
		if listed[name] != 1 {
			t.Errorf("%s is in the table %d times", name, listed[name])
		}
		if !used[ident] {
			t.Errorf("%s: no place in the code has it", ident)
		}
	}
	if len(names) != len(listed) {
		t.Errorf("%d names, %d in the table", len(names), len(listed))
	}
}

// constants are the names, by their identifiers.
func constants(t *testing.T) map[string]Name {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "points.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]Name)
	ast.Inspect(f, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Type == nil || len(v.Values) != 1 {
			return true
		}
		if lit, ok := v.Values[0].(*ast.BasicLit); ok {
			names[v.Names[0].Name] = Name(strings.Trim(lit.Value, `"`))
		}
		return true
	})
	return names
}

// call is a failpoint, or one of virtcontainers' steps, which begin with one.
var call = regexp.MustCompile(`(?:failpoint\.Here\(|step\(ctx, )failpoint\.(\w+)\)`)

// anyCall is a failpoint, whatever it is called; computed are the files in which
// the name is not written down, and why.
var (
	anyCall  = regexp.MustCompile(`failpoint\.Here\((?:failpoint\.\w+\))?`)
	computed = map[string]string{
		"virtcontainers/create.go": "step, whose callers name it",
		"image/store/store.go":     "the store's own tests go through all of its steps (ImageSteps)",
	}
)

// uses are the identifiers that some failpoint in the programs' code has. All of
// them are in Points, through which the fault tests go.
func uses(t *testing.T) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	for _, tree := range []string{"agent", "cmd", "hypervisor", "image", "state", "virtcontainers"} {
		err := filepath.WalkDir(filepath.Join("../..", tree), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range call.FindAllSubmatch(text, -1) {
				found[string(m[1])] = true
			}
			name := filepath.ToSlash(strings.TrimPrefix(path, "../../"))
			for _, m := range anyCall.FindAllString(string(text), -1) {
				if !strings.HasSuffix(m, ")") && computed[name] == "" {
					t.Errorf("%s: a failpoint whose name is computed: expected one of points.go, else the fault tests do not come by it", name)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
