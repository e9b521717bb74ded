package testenv

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Env is what one test works in: a folder, a state folder and a configuration
// of the runtime. When the test ends nothing may be left of it.
type Env struct {
	*Suite
	testing.TB
	Dir    string // the test's folder
	Root   string // the runtime's --root
	Config string // the runtime's --config
	// Vars are further environment variables of the runtime, "NAME=value".
	Vars []string
}

// New makes the surroundings of a test. All that it starts, mounts and opens
// must be gone when it ends.
func (s *Suite) New(t testing.TB) *Env {
	t.Helper()
	before, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(s.Dir, "test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e := &Env{Suite: s, TB: t, Dir: dir, Root: filepath.Join(dir, "root")}
	e.Config = e.WriteConfig("config.toml", nil)
	t.Cleanup(func() {
		if t.Failed() { // what one failure leaves must not become the next
			for _, id := range rootLeaks(filepath.Join(e.Root, "containers"), s.Prefix) {
				t.Log("deleting", filepath.Base(id), e.Do("delete", "--force", filepath.Base(id)))
			}
		}
		for _, leak := range s.leaks(before) {
			t.Errorf("left behind: %s", leak)
		}
		for _, name := range rootLeaks(e.Root, s.Prefix) {
			t.Errorf("left behind in the state folder: %s", name)
		}
		if t.Failed() && os.Getenv("VC_KEEP") != "" {
			return
		}
		if err := removeTree(dir); err != nil {
			t.Error(err)
		}
	})
	return e
}

// With is the same surroundings for a subtest.
func (e *Env) With(t testing.TB) *Env {
	sub := *e
	sub.TB = t
	return &sub
}

// NeedVM skips a test, loudly, of what a runtime without a VM does not have.
func (e *Env) NeedVM() {
	e.Helper()
	if !e.IsVM() {
		e.Skipf("SKIPPED: %s is not vc-runtime: this is about the virtual machine", e.Runtime)
	}
}

// ID gives an id that no other container has.
func (e *Env) ID() string { return e.id("c") }

// Path joins the test's folder and a name.
func (e *Env) Path(name string) string { return filepath.Join(e.Dir, name) }

// environ is what podman leaves in the environment of the runtime, and a
// folder for temporary files that is checked to be empty at the end.
func (e *Env) environ() []string {
	return append([]string{"XDG_RUNTIME_DIR=", "TMPDIR=" + e.Suite.tmp()}, e.Vars...)
}

// Globals are the flags in front of the command.
func (e *Env) Globals() []string {
	if !e.IsVM() {
		return []string{"--root", e.Root}
	}
	return []string{"--root", e.Root, "--config", e.Config}
}

// Do runs the runtime with the given command line.
func (e *Env) Do(args ...string) *Result {
	e.Helper()
	return e.Call(Command{Args: args})
}

// Call runs the runtime; Path and Env of the command are filled in, and the
// global flags are put in front of its arguments.
func (e *Env) Call(c Command) *Result {
	e.Helper()
	c.Path, c.Env = e.Runtime, e.environ()
	c.Args = append(e.Globals(), c.Args...)
	return e.Run(e, c)
}

// OK runs the runtime, which must succeed.
func (e *Env) OK(args ...string) *Result {
	e.Helper()
	res := e.Do(args...)
	if res.Code != 0 {
		e.Fatal(res)
	}
	return res
}

// Fails runs the runtime, which must fail with exit code 1 and one line on
// stderr that has the text, and nothing on stdout.
func (e *Env) Fails(text string, args ...string) *Result {
	e.Helper()
	res := e.Do(args...)
	e.FailedWith(res, 1, text)
	return res
}

// FailedWith checks the exit code and the one line on stderr of a failure.
func (e *Env) FailedWith(res *Result, code int, text string) {
	e.Helper()
	switch {
	case res.Code != code:
		e.Errorf("exit code %d expected: %s", code, res)
	case !strings.Contains(Unquoted(res.Stderr), text):
		e.Errorf("%q expected on stderr: %s", text, res)
	case e.IsVM() && strings.Count(strings.TrimSpace(res.Stderr), "\n") != 0:
		e.Errorf("one line expected on stderr: %s", res)
	case e.IsVM() && res.Stdout != "":
		e.Errorf("nothing expected on stdout: %s", res)
	}
}

// Unquoted takes the quoting of a log line out of a text.
func Unquoted(line string) string { return strings.ReplaceAll(line, `\"`, `"`) }

// State is what the state command prints.
type State struct {
	specs.State
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

// State gives the state of a container. The command must be silent on stderr.
func (e *Env) State(id string) State {
	e.Helper()
	res := e.OK("state", id)
	if res.Stderr != "" {
		e.Errorf("state is not silent: %s", res)
	}
	var st State
	if err := json.Unmarshal([]byte(res.Stdout), &st); err != nil {
		e.Fatalf("%v: %s", err, res)
	}
	return st
}

// IsStatus checks the status that state gives.
func (e *Env) IsStatus(id, want string) {
	e.Helper()
	if st := e.State(id); string(st.Status) != want {
		e.Errorf("container %s is %s, expected %s", id, st.Status, want)
	}
}

// Pids are the processes of a sandbox.
type Pids struct{ Monitor, VM int }

// SandboxPids reads the record of a sandbox.
func (e *Env) SandboxPids(id string) Pids {
	e.Helper()
	b, err := os.ReadFile(filepath.Join(e.Root, "sandboxes", id, "sandbox.json"))
	if err != nil {
		e.Fatal(err)
	}
	var rec struct {
		Monitor, VM struct{ Pid int }
	}
	if err := json.Unmarshal(b, &rec); err != nil {
		e.Fatalf("sandbox.json: %v", err)
	}
	if rec.Monitor.Pid == 0 || rec.VM.Pid == 0 {
		e.Fatalf("sandbox.json has no pids: %s", b)
	}
	return Pids{rec.Monitor.Pid, rec.VM.Pid}
}

// Signal sends a signal to a process.
func (e *Env) Signal(pid int, sig unix.Signal) {
	e.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		e.Fatalf("kill %d %s: %v", pid, sig, err)
	}
}

// Await waits for the end of a child or adopted process and gives its code.
func (e *Env) Await(pid int, limit time.Duration) int {
	e.Helper()
	code, ok := e.reaper.wait(pid, limit)
	if !ok {
		e.Fatalf("process %d has not ended after %s\n%s", pid, limit, e.diagnose())
	}
	return code
}

// Write writes a file into the test's folder and gives its path.
func (e *Env) Write(name, content string) string {
	e.Helper()
	path := e.Path(name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		e.Fatal(err)
	}
	return path
}

// Read reads a file, which must be there.
func (e *Env) Read(path string) string {
	e.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		e.Fatal(err)
	}
	return string(b)
}

// Equal compares, and says what was compared.
func (e *Env) Equal(what string, got, want any) {
	e.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		e.Errorf("%s: got %v, expected %v", what, got, want)
	}
}
