package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestExec has all of exec in one container.
func TestExec(t *testing.T) {
	e := suite.New(t)
	c := e.Container(nil)
	t.Run("created", func(t *testing.T) {
		e := e.With(t)
		e.Equal("output", e.OK("exec", c.ID, "echo", "early").Stdout, "early\n")
		e.IsStatus(c.ID, "created")
	})
	c.Start()
	execCodes(t, e, c)
	for _, sub := range []struct {
		name string
		test func(*testenv.Env, *testenv.Container)
	}{
		{"stdin", execStdin}, {"process", execProcess}, {"detached", execDetached},
		{"shim killed", execShimKilled}, {"signal to the shim", execShimSignalled},
		{"terminal", execTerminal}, {"ps", ps},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(e.With(t), c) })
	}
	e.IsStatus(c.ID, "running")
	e.OK("kill", c.ID, "KILL")
	c.Wait(sluggish)
	res := e.Do("exec", c.ID, "true")
	e.FailedWith(res, 255, "cannot exec in a stopped container")
	c.Delete()
	res = e.Do("exec", c.ID, "true")
	if res.Code == 0 || !strings.Contains(res.Stderr, "does not exist") {
		t.Errorf("exec in a deleted container: %s", res)
	}
}

func execCodes(t *testing.T, e *testenv.Env, c *testenv.Container) {
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string // stderr: a part of it
	}{
		{"success", []string{"sh", "-c", "echo out; echo err >&2"}, 0, "out\n", "err\n"},
		{"code", []string{"sh", "-c", "exit 7"}, 7, "", ""},
		{"signal", []string{"sh", "-c", "kill -9 $$"}, 137, "", ""},
		{"missing", []string{"nonesuch"}, 255, "", `exec: "nonesuch": executable file not found in $PATH`},
		{"missing path", []string{"/nonesuch"}, 255, "", "no such file or directory"},
		{"not executable", []string{"/etc/passwd"}, 255, "", "permission denied"},
		{"environment", []string{"-e", "A=b c", "sh", "-c", "echo $A"}, 0, "b c\n", ""},
		{"folder", []string{"--cwd", "/home/user", "pwd"}, 0, "/home/user\n", ""},
		{"user", []string{"--user", "1000:1000", "sh", "-c", "id -u; id -g"}, 0, "1000\n1000\n", ""},
		{"hostname", []string{"hostname"}, 0, "guest\n", ""},
		{"1 MB", []string{"sh", "-c", "dd if=/dev/zero bs=64k count=16 2>/dev/null | wc -c"}, 0, "1048576\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := e.With(t)
			args := []string{"exec"}
			if strings.HasPrefix(tt.args[0], "-") {
				args = append(args, tt.args[:2]...)
				tt.args = tt.args[2:]
			}
			res := e.Do(append(append(args, c.ID), tt.args...)...)
			if res.Code != tt.code || res.Stdout != tt.stdout || !strings.Contains(testenv.Unquoted(res.Stderr), tt.stderr) {
				t.Errorf("expected exit code %d, stdout %q, stderr %q: %s", tt.code, tt.stdout, tt.stderr, res)
			}
		})
	}
}

func execStdin(e *testenv.Env, c *testenv.Container) {
	text := strings.Repeat("0123456789abcde\n", 1<<16) // 1 MiB
	res := e.Call(testenv.Command{
		Args: []string{"exec", c.ID, "wc", "-c"}, Stdin: strings.NewReader(text),
	})
	e.Equal("stdin's size", strings.TrimSpace(res.Stdout), fmt.Sprint(len(text)))
	// The process may end before its input does.
	res = e.Call(testenv.Command{
		Args: []string{"exec", c.ID, "head", "-c", "3"}, Stdin: strings.NewReader(text),
	})
	if res.Code != 0 || res.Stdout != "012" {
		e.Error(res)
	}
}

// processFile writes a process object that starts from the bundle's.
func processFile(e *testenv.Env, c *testenv.Container, change func(*specs.Process)) string {
	e.Helper()
	p := *c.Bundle.Spec.Process
	change(&p)
	b, err := json.Marshal(&p)
	if err != nil {
		e.Fatal(err)
	}
	return e.Write("process.json", string(b))
}

func execProcess(e *testenv.Env, c *testenv.Container) {
	path := processFile(e, c, func(p *specs.Process) {
		p.Args = []string{"sh", "-c", "id -u; id -g; id -G; pwd; echo $X; umask"}
		umask := uint32(0o27)
		p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{2000}, Umask: &umask}
		p.Cwd, p.Env = "/tmp", append(slices.Clone(p.Env), "X=y")
	})
	res := e.OK("exec", "--process", path, c.ID)
	want := "1000\n1000\n1000 2000\n/tmp\ny\n0027\n"
	if !e.IsVM() { // runc 1.1 forgets the umask of an exec
		want = strings.Replace(want, "0027", "0022", 1)
	}
	e.Equal("output", res.Stdout, want)
}

// detached starts an exec as conmon does and gives the pid of its shim.
func detached(e *testenv.Env, c *testenv.Container, script string) int {
	e.Helper()
	process := processFile(e, c, func(p *specs.Process) { p.Args = []string{"sh", "-c", script} })
	pidFile := e.Write("exec.pid", "") // there before, as with CRI-O
	e.OK("exec", "--pid-file", pidFile, "--process", process, "--detach", c.ID)
	pid, err := strconv.Atoi(e.Read(pidFile))
	if err != nil {
		e.Fatalf("pid-file: %v", err)
	}
	return pid
}

func execDetached(e *testenv.Env, c *testenv.Container) {
	// The command's stdio is the process's: closed before Do returns, or Do
	// would wait for its end.
	pid := detached(e, c, "exec >/dev/null 2>&1; echo $$ >/detached; exit 9")
	e.Equal("exit code", e.Await(pid, exitLimit), 9)
	c.WaitFor("detached")

	missing := processFile(e, c, func(p *specs.Process) { p.Args = []string{"nonesuch"} })
	os.Remove(e.Path("missing.pid"))
	res := e.Do("exec", "--detach", "--pid-file", e.Path("missing.pid"), "--process", missing, c.ID)
	e.FailedWith(res, 255, "executable file not found in $PATH")
	if _, err := os.Stat(e.Path("missing.pid")); err == nil {
		e.Error("a failed exec has written a pid-file")
	}
}

// guestRuns waits until the guest runs, or does not run, a program.
func guestRuns(e *testenv.Env, c *testenv.Container, name string, want bool) {
	e.Helper()
	testenv.Eventually(e, 15*time.Second, func() error {
		out := e.OK("exec", c.ID, "ps", "-o", "args").Stdout
		if strings.Contains(out, name) != want {
			return fmt.Errorf("running %q: %v expected: %s", name, want, out)
		}
		return nil
	})
}

// execShimKilled: SIGKILL of an exec's shim kills the process in the guest.
func execShimKilled(e *testenv.Env, c *testenv.Container) {
	e.NeedVM()
	pid := startSleeper(e, c, "sleep 1234")
	guestRuns(e, c, "sleep 1234", true)
	e.Signal(pid, unix.SIGKILL)
	e.Equal("exit code of the shim", e.Await(pid, sluggish), 137)
	guestRuns(e, c, "sleep 1234", false)
}

// execShimSignalled: shims forward signals.
func execShimSignalled(e *testenv.Env, c *testenv.Container) {
	pid := startSleeper(e, c, "trap 'exit 6' TERM; touch /trapped; while :; do sleep 0.1; done")
	c.WaitFor("trapped")
	e.Signal(pid, unix.SIGTERM)
	e.Equal("exit code", e.Await(pid, exitLimit), 6)
}

// startSleeper starts a detached exec that lives on, and so must not have the
// command's stdio.
func startSleeper(e *testenv.Env, c *testenv.Container, script string) int {
	e.Helper()
	process := processFile(e, c, func(p *specs.Process) { p.Args = []string{"sh", "-c", script} })
	pidFile := e.Path("sleeper.pid")
	if res := e.Call(testenv.Command{
		Args: []string{"exec", "--detach", "--pid-file", pidFile, "--process", process, c.ID}, Null: true,
	}); res.Code != 0 {
		e.Fatal(res)
	}
	pid, err := strconv.Atoi(e.Read(pidFile))
	if err != nil {
		e.Fatalf("pid-file: %v", err)
	}
	return pid
}

func execTerminal(e *testenv.Env, c *testenv.Container) {
	console := e.NewConsole()
	defer console.Close()
	process := processFile(e, c, func(p *specs.Process) {
		p.Terminal = true
		p.ConsoleSize = &specs.Box{Width: 77, Height: 33}
		p.Args = []string{"sh", "-c", "stty size; tty; trap 'stty size' WINCH; read line; echo got $line; exit 4"}
	})
	e.OK("exec", "--detach", "--tty", "--pid-file", e.Path("tty.pid"), "--process", process,
		"--console-socket", console.Path, c.ID)
	pid, err := strconv.Atoi(e.Read(e.Path("tty.pid")))
	if err != nil {
		e.Fatalf("pid-file: %v", err)
	}
	console.Receive()
	if e.IsVM() { // runc leaves the size of an exec to its caller
		console.Expect("33 77\n")
	}
	console.Expect("/dev/pts/")
	console.Type("hello\n")
	console.Expect("got hello\n")
	e.Equal("exit code", e.Await(pid, exitLimit), 4)
}

// ps lists host pids.
func ps(e *testenv.Env, c *testenv.Container) {
	pid := startSleeper(e, c, "sleep 4321")
	var pids []int
	res := e.OK("ps", "--format", "json", c.ID)
	if err := json.Unmarshal([]byte(res.Stdout), &pids); err != nil {
		e.Fatalf("%v: %s", err, res)
	}
	for _, want := range []int{c.Pid, pid} {
		if !slices.Contains(pids, want) {
			e.Errorf("ps has no %d: %s", want, res)
		}
	}
	if res.Stderr != "" {
		e.Errorf("ps is not silent: %s", res)
	}
	// The table is what ps(1) of the host says of those processes, and of no others.
	slices.Sort(pids)
	var listed []int
	for _, line := range strings.Split(strings.TrimSpace(e.OK("ps", c.ID, "-o", "pid,args").Stdout), "\n")[1:] {
		n, err := strconv.Atoi(strings.Fields(line)[0])
		if err != nil {
			e.Errorf("a line of ps: %q", line)
		}
		listed = append(listed, n)
	}
	slices.Sort(listed)
	e.Equal("pids in the table", listed, pids)
	e.Signal(pid, unix.SIGKILL)
	e.Await(pid, sluggish)
}
