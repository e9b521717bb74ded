package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// tight is a cgroup of the host with a memory limit, and a program in it that
// takes more and more; the OOM killer would rather take those that take puts in.
type tight struct {
	dir    string
	events string // name of the file with the count of its victims
	hog    *exec.Cmd
}

// newTight makes the cgroup, in either version.
func newTight(w *world) *tight {
	w.Helper()
	g := &tight{dir: "/sys/fs/cgroup/memory", events: "memory.oom_control"}
	name := "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		g.dir, g.events, name = "/sys/fs/cgroup", "memory.events", "memory.max"
	}
	g.dir = filepath.Join(g.dir, w.ID()+"-tight")
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		g.end()
		testenv.Eventually(w, limit, func() error { return os.Remove(g.dir) })
	})
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte("32M"), 0); err != nil {
		w.Fatal(err)
	}
	return g
}

func (g *tight) take(w *world, pid int) {
	w.Helper()
	for path, n := range map[string]int{filepath.Join(g.dir, "cgroup.procs"): pid, fmt.Sprintf("/proc/%d/oom_score_adj", pid): 1000} {
		if err := os.WriteFile(path, []byte(strconv.Itoa(n)), 0); err != nil {
			w.Fatal(err)
		}
	}
}

// press takes the memory.
func (g *tight) press(w *world) {
	w.Helper()
	g.hog = exec.Command("sh", "-c", "echo $$ >"+g.dir+"/cgroup.procs && exec tail /dev/zero")
	if err := g.hog.Start(); err != nil {
		w.Fatal(err)
	}
}

// end ends the program.
func (g *tight) end() {
	if g.hog != nil {
		g.hog.Process.Kill()
		g.hog.Wait()
		g.hog = nil
	}
}

// victims counts whom the OOM killer has taken.
func (g *tight) victims(w *world) int {
	w.Helper()
	for line := range strings.Lines(w.Read(filepath.Join(g.dir, g.events))) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			n, _ := strconv.Atoi(f[1])
			return n
		}
	}
	w.Fatalf("%s has no oom_kill", g.events)
	return 0
}

func oomScore(n int) testenv.Option {
	return func(s *specs.Spec) { s.Process.OOMScoreAdj = &n }
}

// TestOOMKiller has the host's OOM killer take each process in turn.
func TestOOMKiller(t *testing.T) {
	warm(t)
	for _, victim := range []string{"QEMU", "monitor", "shim", "file server"} {
		t.Run(victim, func(t *testing.T) {
			w := newWorld(t)
			c := w.Started(nil, testenv.Args("sleep", "1000"))
			pids := victims(victim)
			if len(pids) == 0 {
				t.Fatalf("no %s", victim)
			}
			g := newTight(w)
			for _, pid := range pids {
				g.take(w, pid)
			}
			g.press(w)
			testenv.Eventually(w, limit, func() error {
				if g.victims(w) == 0 {
					return fmt.Errorf("the OOM killer has taken nobody")
				}
				return nil
			})
			begin := time.Now()
			testenv.Eventually(w, limit, func() error {
				if st := w.State(c.ID); st.Status != "stopped" {
					return fmt.Errorf("%s", st.Status)
				}
				return nil
			})
			t.Logf("stopped after %s", time.Since(begin).Round(time.Millisecond))
			g.end()
			w.Equal("exit code", c.Wait(testenv.DefaultTimeout), 137)
			if err := c.Bundle.Overlay.Cycle(); err != nil {
				t.Error(err)
			}
			c.DeleteForced()
			if err := w.quiet(); err != nil {
				t.Error(err)
			}
		})
	}
}

func (w *world) oomScore(pid string) int {
	w.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(w.Read("/proc/" + pid + "/oom_score_adj")))
	if err != nil {
		w.Fatal(err)
	}
	return n
}

// maySetLower reports whether scores can be lowered here: that takes
// CAP_SYS_RESOURCE, which root in a container may be without.
func (w *world) maySetLower() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil {
		w.Fatal(err)
	}
	return caps[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// TestOOMScores looks whom the host's OOM killer would rather take.
func TestOOMScores(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	score := func(kind string, want int) {
		t.Helper()
		for _, pid := range victims(kind) {
			w.Equal("score of the "+kind, w.oomScore(strconv.Itoa(pid)), want)
		}
		if len(victims(kind)) == 0 {
			t.Errorf("no %s", kind)
		}
	}
	c := w.Started(nil, testenv.Args("sleep", "1000"), oomScore(321))
	score("QEMU", 321)
	score("file server", 321)
	own := w.oomScore("self")
	ours := own
	if w.maySetLower() {
		ours = -998
	}
	score("monitor", ours)
	score("shim", ours)
	if res := w.call("exec", "--detach", c.ID, "sleep", "1000"); res.Code != 0 {
		t.Error(res)
	}
	score("shim", ours)
	w.Signal(c.Pid, unix.SIGKILL)
	c.Wait(testenv.DefaultTimeout)
	c.Delete()
	c = w.Started(nil, testenv.Args("sleep", "1000")) // with its caller's
	score("QEMU", own)
	score("monitor", ours)
	c.DeleteForced()
}
