package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// looking are functions with which programs look again and again at what could
// tell them.
var looking = map[string]bool{
	"Sleep": true, "Tick": true, "NewTicker": true, // of time
	"TryLockContext": true, "TryRLockContext": true, // of gofrs/flock
}

// mayLook are the files that may, and why.
var mayLook = map[string]string{
	"hypervisor/qemu/disk.go":                    "QEMU frees a device some moments after it has said so, and does not say when",
	"hypervisor/qemu/tsc.go":                     "it measures how far a counter gets in a time",
	"virtcontainers/cgroup/cgroup.go":            "a thread that is being born cannot be moved before Linux 6.1, which nothing tells",
	"virtcontainers/cgroup/remove.go":            "a process has ended before its cgroup is without it, which cgroup v1 does not tell",
	"agent/guest/pagecache.go":                   "how many pages a kernel keeps is no event",
	"state/failpoint/on.go":                      "a failpoint that waits, in tests only",
	"virtcontainers/events.go":                   "an interval is what its user asks for",
	"virtcontainers/monitor/sandbox/patience.go": "how long a thread has waited for a CPU is no event",
}

// TestNoPolling looks for waits that no event ends.
func TestNoPolling(t *testing.T) {
	seen := make(map[string]bool)
	for _, tree := range []string{"agent", "cmd", "hypervisor", "image", "state", "trace", "virtcontainers"} {
		err := filepath.WalkDir(filepath.Join("../..", tree), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			name := filepath.ToSlash(strings.TrimPrefix(path, "../../"))
			for _, call := range lookingIn(f) {
				seen[name] = true
				if mayLook[name] == "" {
					t.Errorf("%s: %s: what is waited for here should tell; if it cannot, put the reason into mayLook", name, call)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for name := range mayLook {
		if !seen[name] {
			t.Errorf("%s is in mayLook, and does not look", name)
		}
	}
}

// lookingIn names the calls in a file with which it looks again and again. What
// gives up after a time is no such call, unless it is in a loop.
func lookingIn(f *ast.File) []string {
	var calls []string
	find := func(n ast.Node, inLoop bool) {
		ast.Inspect(n, func(n ast.Node) bool {
			if call, ok := n.(*ast.SelectorExpr); ok && (looking[call.Sel.Name] && !inLoop || call.Sel.Name == "After" && inLoop) {
				calls = append(calls, call.Sel.Name)
			}
			return true
		})
	}
	find(f, false)
	ast.Inspect(f, func(n ast.Node) bool {
		switch loop := n.(type) {
		case *ast.ForStmt:
			find(loop.Body, true)
		case *ast.RangeStmt:
			find(loop.Body, true)
		}
		return true
	})
	return calls
}
