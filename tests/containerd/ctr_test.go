package containerd

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// ctrCommand is a command line of ctr.
func ctrCommand(s *testenv.Suite, args ...string) testenv.Command {
	path, err := exec.LookPath("ctr")
	if err != nil {
		path = "ctr" // whose start then says so
	}
	return testenv.Command{Path: path, Args: append([]string{"--address", socket}, args...), Env: environ(s)}
}

// runFlags are `ctr run` with the runtime under test.
func runFlags(s *testenv.Suite) []string {
	return []string{"run", "--runc-binary", testenv.Installed, "--cgroup", "/" + s.Prefix + "/ctr"}
}

// ctr is one test's ctr.
type ctr struct{ *testenv.Env }

func (c ctr) do(args ...string) *testenv.Result {
	c.Helper()
	return c.Run(c, ctrCommand(c.Suite, args...))
}

func (c ctr) ok(args ...string) string {
	c.Helper()
	res := c.do(args...)
	if res.Code != 0 {
		c.Fatalf("%s\n%s", res, daemon.Tail())
	}
	return res.Stdout
}

// run is `ctr run` of the test image.
func (c ctr) run(flags []string, args ...string) *testenv.Result {
	c.Helper()
	return c.do(append(append(append(runFlags(c.Suite), flags...), image), args...)...)
}

// detached starts a container in the background.
func (c ctr) detached(args ...string) string {
	c.Helper()
	id := c.ID()
	// Its output must not be the test's, which waits for the end of it.
	cmd := ctrCommand(c.Suite, append(append(runFlags(c.Suite), "--detach", image, id), args...)...)
	cmd.Null = true
	if res := c.Run(c, cmd); res.Code != 0 {
		c.Fatalf("%s\n%s", res, daemon.Tail())
	}
	return id
}

// status is that of a task, "" for one that is not there.
func (c ctr) status(id string) string {
	c.Helper()
	for line := range strings.Lines(c.ok("tasks", "list")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			return f[2]
		}
	}
	return ""
}

func newCtr(t *testing.T) ctr {
	e := suite.New(t)
	e.NeedVM()
	from := logSize(t)
	t.Cleanup(func() { noComplaint(t, from) })
	return ctr{e}
}

func TestCtrRun(t *testing.T) {
	c := newCtr(t)
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stdout string
	}{
		{"success", []string{"echo", "hello"}, 0, "hello\n"},
		{"code", []string{"sh", "-c", "echo out; exit 7"}, 7, "out\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := ctr{c.With(t)}
			res := c.run([]string{"--rm"}, append([]string{c.ID()}, tt.args...)...)
			if res.Code != tt.code || res.Stdout != tt.stdout {
				t.Errorf("expected exit code %d and stdout %q: %s", tt.code, tt.stdout, res)
			}
		})
	}
	res := c.run([]string{"--rm"}, c.ID(), "/no/such/program")
	if res.Code == 0 || !strings.Contains(res.Stderr, "no such file or directory") && !strings.Contains(res.Stderr, "executable file not found") {
		t.Errorf("a missing executable: %s", res)
	}
}

// TestCtrTask has the verbs on one container.
func TestCtrTask(t *testing.T) {
	c := newCtr(t)
	id := c.detached("sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done")
	c.Equal("status", c.status(id), "RUNNING")
	c.Equal("exec", c.ok("tasks", "exec", "--exec-id", "e1", id, "cat", "/proc/1/cmdline"), "sh\x00-c\x00trap 'exit 5' TERM; while :; do sleep 0.1; done\x00")
	if res := c.do("tasks", "exec", "--exec-id", "e2", id, "sh", "-c", "exit 9"); res.Code != 9 {
		t.Errorf("exit code of an exec: %s", res)
	}
	if ps := c.ok("tasks", "ps", id); strings.Count(ps, "\n") < 2 {
		t.Errorf("ps: %s", ps)
	}
	if metrics := c.ok("tasks", "metrics", id); !strings.Contains(metrics, "memory.usage_in_bytes") && !strings.Contains(metrics, "memory.usage") {
		t.Errorf("metrics: %s", metrics)
	}
	c.ok("tasks", "pause", id)
	c.Equal("status", c.status(id), "PAUSED")
	c.ok("tasks", "resume", id)
	c.ok("tasks", "kill", "--signal", "SIGTERM", id)
	testenv.Eventually(t, 30*time.Second, func() error { return isStatus(c, id, "STOPPED") })
	c.deleted(id, 5)
	c.ok("containers", "delete", id)
}

// deleted deletes a task, of which ctr says the exit code.
func (c ctr) deleted(id string, code int) {
	c.Helper()
	if res := c.do("tasks", "delete", id); res.Code != 0 || !strings.Contains(res.Stderr, fmt.Sprintf("exit with non-zero exit code %d\"", code)) {
		c.Errorf("expected exit code %d of the task: %s", code, res)
	}
}

func isStatus(c ctr, id, want string) error {
	if got := c.status(id); got != want {
		return &statusError{id, got, want}
	}
	return nil
}

type statusError struct{ id, got, want string }

func (e *statusError) Error() string { return e.id + " is " + e.got + ", expected " + e.want }

// TestCtrForce removes a container that ignores TERM.
func TestCtrForce(t *testing.T) {
	c := newCtr(t)
	id := c.detached("sleep", "1000000")
	c.ok("tasks", "kill", "--signal", "SIGKILL", id)
	testenv.Eventually(t, 30*time.Second, func() error { return isStatus(c, id, "STOPPED") })
	c.deleted(id, 137)
	c.ok("containers", "delete", id)
	id = c.detached("sleep", "1000000")
	if res := c.do("tasks", "delete", "--force", id); res.Code != 137 && res.Code != 0 {
		t.Error(res)
	}
	c.ok("containers", "delete", id)
}

// TestCtrTerminal runs at a terminal.
func TestCtrTerminal(t *testing.T) {
	c := newCtr(t)
	// ctr tells the size when the container has started: nothing orders it and the process.
	const script = `until [ "$(stty size 2>/dev/null)" = "30 100" ]; do sleep 0.1; done; stty size; read line; echo got $line; exit 4`
	cmd := ctrCommand(c.Suite, append(append(runFlags(c.Suite), "--rm", "--tty", image), c.ID(), "sh", "-c", script)...)
	console, pid := c.AtTerminal(100, 30, cmd)
	defer console.Close()
	// ctr's terminal is raw but for its output (containerd/console, SetRaw).
	console.Expect("30 100\r\n")
	console.Type("hello\n")
	console.Expect("got hello\r\n")
	c.Equal("exit code", c.Await(pid, time.Minute), 4)
}
