package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// suite is set by TestMain.
var suite *Suite

// TestMain needs no runtime: these are tests of the surroundings.
func TestMain(m *testing.M) {
	os.Setenv("VC_RUNTIME", "/bin/true")
	os.Exit(Main(m, &suite, nil))
}

// TestLeaks leaves things of each kind behind, which must be found.
func TestLeaks(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(*Env) (undo func())
		want string
	}{
		{"mount", func(e *Env) func() {
			o := e.NewOverlay("rootfs")
			return func() { o.Unmount() }
		}, "mount "},
		{"file in /run", func(e *Env) func() {
			os.WriteFile("/run/left", nil, 0o600)
			return func() { os.Remove("/run/left") }
		}, "file /run/left"},
		{"spare's cgroup", func(e *Env) func() {
			dir, err := os.MkdirTemp(cgroupMount(e), "vc-runtime-spare-")
			if err != nil {
				e.Fatal(err)
			}
			if err := unix.Setxattr(dir, "trusted.vc-runtime", []byte(filepath.Join(e.Root, "id")), 0); err != nil {
				e.Error(err)
			}
			return func() { os.Remove(dir) }
		}, "/vc-runtime-spare-"},
		{"temporary file", func(e *Env) func() {
			path := filepath.Join(e.tmp(), "left")
			os.WriteFile(path, nil, 0o600)
			return func() { os.Remove(path) }
		}, "/tmp/left"},
		{"descriptor", func(e *Env) func() {
			r, w, _ := os.Pipe()
			return func() { r.Close(); w.Close() }
		}, "descriptor pipe"},
		{"process", func(e *Env) func() {
			// An orphan: it comes to the suite, its subreaper.
			e.Run(e, Command{Path: "/bin/sh", Args: []string{"-c", "sleep 1000 >/dev/null 2>&1 & echo $! >" + e.Path("pid")}})
			return func() {
				for _, pid := range Processes("sleep") {
					unix.Kill(pid, unix.SIGKILL)
					e.Await(pid, 5*time.Second)
				}
			}
		}, "(sleep)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			before, err := suite.snapshot()
			if err != nil {
				t.Fatal(err)
			}
			undo := tt.make(e)
			found := strings.Join(suite.look(before), "\n")
			undo()
			if !strings.Contains(found, tt.want) {
				t.Errorf("no %q in what was found: %s", tt.want, found)
			}
		})
	}
}

// TestOverlayBusy: the overlay's cycle fails where something holds it, plainly
// or by way of a lazy unmount.
func TestOverlayBusy(t *testing.T) {
	e := suite.New(t)
	o := e.NewOverlay("rootfs")
	if err := o.Cycle(); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(o.Dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Cycle(); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("unmounted while a file is open: %v", err)
	}
	if err := unix.Unmount(o.Dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if err := o.Mount(); err == nil || !strings.Contains(err.Error(), "busy") {
		t.Errorf("the upper layer was mounted again while a file is open: %v", err)
	}
	f.Close()
	Eventually(t, 5*time.Second, o.Mount)
}

// TestReaper has exit codes of children, of orphans, and of signals.
func TestReaper(t *testing.T) {
	e := suite.New(t)
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -9 $$": 137} {
		if res := e.Run(t, Command{Path: "/bin/sh", Args: []string{"-c", script}}); res.Code != want {
			t.Errorf("%s: %s", script, res)
		}
	}
	res := e.Run(t, Command{Path: "/bin/sh", Args: []string{"-c", "(exec >/dev/null 2>&1; sleep 0.2; exit 5) & echo $!"}})
	pid := 0
	for _, c := range strings.TrimSpace(res.Stdout) {
		pid = 10*pid + int(c-'0')
	}
	e.Equal("orphan's exit code", e.Await(pid, 5*time.Second), 5)
}

// TestHeldOutput: a daemon that keeps its starter's stdout open is found.
func TestHeldOutput(t *testing.T) {
	_, err := suite.Exec(Command{
		Path: "/bin/sh", Args: []string{"-c", "sleep 1000 & exit 0"}, Limit: 500 * time.Millisecond,
	})
	if err == nil || !strings.Contains(err.Error(), "its output is still open") {
		t.Errorf("got %v", err)
	}
	for _, pid := range Processes("sleep") {
		unix.Kill(pid, unix.SIGKILL)
		if _, ok := suite.reaper.wait(pid, 5*time.Second); !ok {
			t.Errorf("process %d does not end", pid)
		}
	}
}

// cgroupMount is where a cgroup can be made.
func cgroupMount(e *Env) string {
	for _, dir := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil {
			return dir
		}
	}
	e.Skip("SKIPPED: no cgroups are mounted")
	return ""
}
