package fault

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// answersAlone are the requests that a monitor answers without its guest: who holds
// a lock may wait for that.
var answersAlone = []string{string(monitor.OpAbandon), string(monitor.OpProcesses), string(monitor.OpSandbox)}

// TestLockOrder takes containers and a pod through their lives, and compares the
// operations and locks of each process with the table of docs/locking.md.
func TestLockOrder(t *testing.T) {
	order := documented(t)
	w := newWorld(t)
	w.NeedVM()
	for _, p := range []failpoint.Name{failpoint.CreateUndo, failpoint.MonitorUnplug, failpoint.StartAsk, failpoint.KillForce} {
		m := &matrix{world: w, point: pointOf(t, p), fault: "nothing"}
		m.live()
	}
	spares := w.Configured(testenv.Settings{"hypervisor.spares": "1", "hypervisor.spare_delay": `"0s"`})
	spares.OK("spare", "create")
	spares.Started(nil, testenv.Args("sleep", "1000")).DeleteForced()
	spares.OK("spare", "rm")
	takers := takersOf(w.Read(w.trace))
	held := make(map[string][]string) // by pid
	taken := make(map[string]bool)
	for line := range strings.Lines(w.Read(w.trace)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[1] == "await" && slices.ContainsFunc(held[f[0]], isLock) && !slices.Contains(answersAlone, f[2]) {
			t.Errorf("process %s waits for the answer to %s while it holds %v", f[0], f[2], held[f[0]])
		}
		if len(f) != 3 || f[1] != "take" && f[1] != "release" {
			continue
		}
		pid, lock := f[0], f[2]
		rank := slices.Index(order, lock)
		if rank < 0 {
			t.Fatalf("docs/locking.md has no lock %q", lock)
		}
		if f[1] == "release" {
			if i := slices.Index(held[pid], lock); i >= 0 {
				held[pid] = slices.Delete(held[pid], i, i+1)
			}
			continue
		}
		taken[lock] = true
		// One that was ended before it passed a point may be any: the monitor of the
		// spare that `spare rm` has not let begin.
		if taker, known := takers[pid]; known && ((taker == failpoint.Monitor) != (lock == "lock") || taker == failpoint.Shim) {
			t.Errorf("a %s takes %s", taker, lock)
		}
		for _, h := range held[pid] {
			if slices.Index(order, h) >= rank {
				t.Errorf("process %s takes %s while it holds %s", pid, lock, h)
			}
		}
		held[pid] = append(held[pid], lock)
	}
	for _, lock := range order {
		if !taken[lock] {
			t.Errorf("nobody has taken %s", lock)
		}
	}
}

// isLock tells a lock from an operation, and from the proof that a monitor lives.
func isLock(name string) bool { return name != "operations" && name != "lock" }

// takersOf says which program each process is, by the points that it has passed.
func takersOf(trace string) map[string]failpoint.Process {
	takers := make(map[string]failpoint.Process)
	for line := range strings.Lines(trace) {
		f := strings.Fields(line)
		for _, p := range failpoint.Points {
			if len(f) == 3 && f[1] == "point" && f[2] == string(p.Name) && p.Process != failpoint.Any {
				takers[f[0]] = p.Process
			}
		}
	}
	return takers
}

// TestLockFree runs the commands that take no lock, as the document says: they get
// through whoever hangs with one.
func TestLockFree(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	c := w.Started(nil, testenv.Args("sleep", "1000"))
	trace := w.Path("trace-of-the-others")
	e := *w.Env
	e.Vars = []string{"VC_FAILPOINTS_TRACE=" + trace}
	other := &world{Env: &e, trace: trace}
	for _, args := range [][]string{
		{"state", c.ID}, {"list"}, {"exec", c.ID, "true"}, {"kill", c.ID, "CONT"}, {"kill", c.ID, "KILL"}, {"state", c.ID},
	} {
		other.OK(args...)
	}
	for line := range strings.Lines(other.Read(trace)) {
		if strings.Contains(line, " take ") {
			t.Errorf("a lock was taken: %s", line)
		}
	}
	if !other.passed(string(failpoint.KillAsk)) {
		t.Error("there is no trace of the commands")
	}
	c.Delete()
}

// documented reads the names of the locks, in their order, out of the table.
func documented(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("../../docs/locking.md")
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	table, _, _ := strings.Cut(string(b), "\n## ") // those of the image store come later
	for line := range strings.Lines(table) {
		cell, ok := strings.CutPrefix(line, "| `")
		if !ok {
			continue
		}
		path, _, _ := strings.Cut(cell, "`")
		name, _, _ := strings.Cut(path, "/")
		if strings.HasSuffix(path, "/lock") {
			name = "lock"
		}
		if name != "templates" && name != "starts" { // of the cache, and of packages template and queue
			order = append(order, name)
		}
	}
	if len(order) != 4 {
		t.Fatalf("the table has %v", order)
	}
	return order
}
