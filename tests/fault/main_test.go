// Package fault makes the runtime fail, and kills its processes, at every
// place that it has a name for (package state/failpoint), and checks that
// nothing is lost or left. It builds a runtime of its own, with failpoints.
//
// Without VC_FAULTS a representative part runs. VC_FAULTS=all runs everything,
// as `make fault` does.
package fault

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain, released is the runtime without failpoints.
var (
	suite    *testenv.Suite
	released string
)

func TestMain(m *testing.M) {
	if pid := os.Getenv(holdVar); pid != "" {
		if err := hold(pid, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(testenv.Main(m, &suite, func(s *testenv.Suite) (func() error, error) {
		released = s.Runtime
		s.Runtime = filepath.Join(s.Dir, "vc-runtime")
		return func() error { return nil }, s.Build(s.Runtime, "./cmd/vc-runtime", "-tags=failpoints", "-trimpath", "-buildvcs=false")
	}))
}

// everything reports whether the whole matrix is wanted.
func everything() bool { return os.Getenv("VC_FAULTS") == "all" }

// limit is for what takes milliseconds where nothing is wrong.
const limit = 30 * time.Second

// world is the surroundings of one case.
type world struct {
	*testenv.Env
	trace string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	e := suite.New(t)
	w := &world{Env: e, trace: e.Path("trace")}
	w.Vars = []string{"VC_FAILPOINTS_TRACE=" + w.trace}
	t.Cleanup(w.isEmpty)
	return w
}

// warm runs a container, once for all tests: the first machine makes the
// template, which takes longer.
func warm(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(suite.Dir, "warm")); err == nil {
		return
	}
	e := suite.New(t)
	e.NeedVM()
	e.OK("run", "--bundle", e.Bundle(testenv.Args("true")).Dir, e.ID())
	if err := os.WriteFile(filepath.Join(suite.Dir, "warm"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
}

// isEmpty checks that nothing at all is left below the runtime's root.
func (w *world) isEmpty() {
	for _, kind := range []string{"containers", "sandboxes", "operations", "locks", "sandbox-locks", "unclaimed"} {
		entries, _ := os.ReadDir(filepath.Join(w.Root, kind))
		for _, e := range entries {
			if e.Name() == "spare~" { // of the folder, for a full disk
				continue
			}
			w.Errorf("left behind in the state folder: %s/%s", kind, e.Name())
		}
	}
}

// armed is the same world for programs that are started with failpoints.
func (w *world) armed(points ...string) *world {
	e := *w.Env
	e.Vars = append(e.Vars[:len(e.Vars):len(e.Vars)], "VC_FAILPOINTS="+strings.Join(points, ";"))
	return &world{Env: &e, trace: w.trace}
}

// passed reports whether a program came by the point.
func (w *world) passed(name string) bool {
	b, err := os.ReadFile(w.trace)
	if err != nil {
		return false
	}
	return strings.Contains(string(b), " point "+name+"\n")
}

// call runs the runtime with a file as its stdout and stderr: what it leaves
// may live on. The result has what it has written.
func (w *world) call(args ...string) *testenv.Result {
	w.Helper()
	f, err := os.CreateTemp(w.Dir, "out")
	if err != nil {
		w.Fatal(err)
	}
	f.Close()
	res := w.Call(testenv.Command{Args: args, Output: f.Name()})
	res.Stderr = w.Read(f.Name())
	return res
}

// gate is where programs wait at a failpoint until a test lets them go.
type gate struct {
	w    *world
	path string
	l    *net.UnixListener
}

func (w *world) newGate() *gate {
	w.Helper()
	f, err := os.CreateTemp(w.Dir, "g")
	if err != nil {
		w.Fatal(err)
	}
	f.Close()
	os.Remove(f.Name())
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: f.Name()})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { l.Close() })
	return &gate{w: w, path: f.Name(), l: l}
}

// pause is the action that leads to the gate.
func (g *gate) pause() string { return "pause:" + g.path }

// waiter is a program at the gate.
type waiter struct {
	conn *net.UnixConn
	name string
	pid  int
}

// wait waits for a program to come, but not after over is closed: it is nil
// then.
func (g *gate) wait(over <-chan struct{}) *waiter {
	g.w.Helper()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-over:
			g.l.SetDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	g.l.SetDeadline(time.Now().Add(testenv.DefaultTimeout))
	c, err := g.l.AcceptUnix()
	if err != nil {
		return nil
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		g.w.Fatalf("at the gate: %v", err)
	}
	name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return &waiter{conn: c, name: name, pid: peerPid(g.w, c)}
}

// let lets the program go on with an action.
func (p *waiter) let(action string) {
	fmt.Fprintln(p.conn, action)
	p.conn.Close()
}

// peerPid is the pid as this process sees it: a shim takes itself for PID 1.
func peerPid(w *world, c *net.UnixConn) int {
	raw, err := c.SyscallConn()
	if err != nil {
		w.Fatal(err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || cerr != nil {
		w.Fatal(err, cerr)
	}
	return int(cred.Pid)
}

// victims are the runtime's processes by what they are.
func victims(kind string) []int {
	switch kind {
	case "QEMU":
		return testenv.Processes("qemu-system-x86")
	case "file server":
		return testenv.Processes("virtiofsd")
	}
	var pids []int
	for _, pid := range testenv.Processes("vc-runtime") {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if arg := strings.Split(string(b), "\x00"); err == nil && len(arg) > 1 && arg[1] == kind {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestRelease looks for the failpoints in the runtime that users get.
func TestRelease(t *testing.T) {
	for path, want := range map[string]bool{released: false, suite.Runtime: true} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(b), "VC_FAILPOINTS"); got != want {
			t.Errorf("%s: failpoints %v, expected %v", path, got, want)
		}
	}
}
