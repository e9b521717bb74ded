package integration

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestRun runs a container in the foreground: streams, exit code, nothing
// left.
func TestRun(t *testing.T) {
	e := suite.New(t)
	b := e.Bundle(testenv.Shell("cat; echo err >&2; exit 7"))
	id := e.ID()
	res := e.Call(testenv.Command{
		Args: []string{"run", "--bundle", b.Dir, "--pid-file", e.Path("pid"), id}, Stdin: strings.NewReader("in\n"),
	})
	if res.Code != 7 || res.Stdout != "in\n" || !strings.Contains(res.Stderr, "err\n") {
		t.Error(res)
	}
	if err := b.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	e.Fails("does not exist", "state", id)
}

// TestRunInterrupted sends the signal that Ctrl-C does.
func TestRunInterrupted(t *testing.T) {
	e := suite.New(t)
	b := e.Bundle(testenv.Shell("trap 'echo interrupted; exit 5' INT; " + ready))
	id := e.ID()
	res := e.Call(testenv.Command{
		Args: []string{"run", "--bundle", b.Dir, id},
		Started: func(pid int) {
			waitForFile(t, filepath.Join(b.Rootfs, "ready"))
			e.IsStatus(id, "running")
			e.Signal(pid, unix.SIGINT)
		},
	})
	if res.Code != 5 || res.Stdout != "interrupted\n" {
		t.Error(res)
	}
}

// TestRunTerminal runs at the caller's terminal, and leaves it as it was.
func TestRunTerminal(t *testing.T) {
	e := suite.New(t)
	b := e.Bundle(testenv.Terminal(0, 0),
		testenv.Shell("trap 'stty size' WINCH; stty size; [ -t 0 ] && echo terminal; while [ \"$line\" != quit ]; do read line; done; exit 6"))
	b.Spec.Process.ConsoleSize = nil
	b.Write(e)
	console, pid := e.Command(100, 30, "run", "--bundle", b.Dir, e.ID())
	defer console.Close()
	console.Expect("30 100\nterminal\n")
	console.AwaitRaw()
	console.Resize(77, 33)
	console.Expect("33 77\n")
	console.Type("quit\n")
	e.Equal("exit code", e.Await(pid, exitLimit), 6)
	if s := console.Settings(); s.Lflag&unix.ICANON == 0 || s.Oflag&unix.OPOST == 0 || s.Lflag&unix.ECHO == 0 {
		t.Errorf("the terminal was left raw: %+v", s)
	}
}

// TestExecTerminal is kubectl's exec: in the foreground, at a terminal.
func TestExecTerminal(t *testing.T) {
	e := suite.New(t)
	c := e.Started(nil)
	console, pid := e.Command(90, 20, "exec", "--tty", c.ID, "sh", "-c", "stty size; read line; echo got $line; exit 3")
	defer console.Close()
	console.Expect("20 90\n")
	console.Type("hello\n")
	console.Expect("got hello\n")
	e.Equal("exit code", e.Await(pid, exitLimit), 3)
	c.DeleteForced()
}

// TestRunDetached leaves the container to its caller.
func TestRunDetached(t *testing.T) {
	e := suite.New(t)
	b := e.Bundle(testenv.Shell(ready))
	id := e.ID()
	if res := e.Call(testenv.Command{
		Args: []string{"run", "--detach", "--bundle", b.Dir, "--pid-file", e.Path("pid"), id}, Null: true,
	}); res.Code != 0 {
		t.Fatal(res)
	}
	waitForFile(t, filepath.Join(b.Rootfs, "ready"))
	pid := e.State(id).Pid
	e.Equal("pid-file", e.Read(e.Path("pid")), pid)
	e.OK("delete", "--force", id)
	e.Equal("exit code", e.Await(pid, time.Second), 137)
}

func waitForFile(t testing.TB, path string) {
	t.Helper()
	testenv.Eventually(t, testenv.DefaultTimeout, func() error {
		var st unix.Stat_t
		return unix.Stat(path, &st)
	})
}
