package fault

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestLate: who comes late to the end of a process, because the host is busy, misses
// nothing. Whoever waits does so for what has happened already: the process has
// ended before the monitor asks for its end, before start has recorded that it
// runs, and before its streams are connected; its child, in a user namespace of
// their own, holds the pipes until the kernel ends it.
func TestLate(t *testing.T) {
	const size = 100_000 // more than a pipe holds
	userNamespace := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		ids := []specs.LinuxIDMapping{{Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	script := testenv.Shell("sleep 1000 & head -c 100000 /dev/zero; printf last >&2; exit 7")
	run := []string{"monitor.wait", "monitor.stream", "start.record", "monitor.kill-vm", "monitor.exit", "shim.exit", "shim.end", "monitor.end", "delete.shim"}
	t.Run("run", func(t *testing.T) {
		warm(t)
		w := newWorld(t)
		b := w.Bundle(userNamespace, script)
		res := w.late(run).Do("run", "--bundle", b.Dir, w.ID())
		if res.Code != 7 || len(res.Stdout) != size || res.Stderr != "last" {
			t.Errorf("exit code %d, %d bytes, stderr %q", res.Code, len(res.Stdout), res.Stderr)
		}
		w.came(run)
	})
	t.Run("exec", func(t *testing.T) {
		warm(t)
		w := newWorld(t)
		points := []string{"monitor.wait", "monitor.stream"}
		c := w.late(points).Started(nil, userNamespace, testenv.Args("sleep", "1000"))
		// The child lives on, with its parent's pipes.
		res := w.Do("exec", c.ID, "sh", "-c", "sleep 1001 & head -c 100000 /dev/zero; printf last >&2; exit 7")
		if res.Code != 7 || len(res.Stdout) != size || res.Stderr != "last" {
			t.Errorf("exit code %d, %d bytes, stderr %q", res.Code, len(res.Stdout), res.Stderr)
		}
		w.came(points)
		c.DeleteForced()
	})
}

// late is the world for programs that take their time at each point, most of it
// before they ask for the end of a process.
func (w *world) late(points []string) *world {
	var arms []string
	for _, p := range points {
		delay := "=sleep:200ms"
		if p == "monitor.wait" {
			delay = "=sleep:1500ms"
		}
		arms = append(arms, p+delay)
	}
	return w.armed(arms...)
}

// came checks that programs came by each point.
func (w *world) came(points []string) {
	w.Helper()
	for _, p := range points {
		if !w.passed(p) {
			w.Errorf("nobody came by %s", p)
		}
	}
}
