package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// script makes a hook of a shell script, in which "$1" is the first argument.
func script(t *testing.T, body string, args ...string) specs.Hook {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return specs.Hook{Path: path, Args: append([]string{"the-hook"}, args...)}
}

func testState(t *testing.T) specs.State {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return specs.State{
		Version: "1.2.0", ID: "c1", Status: specs.StateCreating, Pid: 42, Bundle: dir,
		Annotations: map[string]string{"a": "b"},
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func seconds(n int) *int { return &n }

func TestHookGetsStateFolderArgumentsAndOnlyItsEnvironment(t *testing.T) {
	t.Setenv("VC_LEAK", "this must not reach a hook")
	st := testState(t)
	h := script(t, `cat > state; pwd > pwd; echo "$@" > args; tr '\0' '\n' < /proc/$$/environ > env`, "one", "two words")
	h.Env = []string{"PATH=/usr/bin:/bin", "K=v w"}
	if err := Run(context.Background(), CreateRuntime, []specs.Hook{h}, st); err != nil {
		t.Fatal(err)
	}
	var got specs.State
	if err := json.Unmarshal([]byte(read(t, filepath.Join(st.Bundle, "state"))), &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(st, got); d != "" {
		t.Errorf("state on stdin:\n%s", d)
	}
	for file, want := range map[string]string{
		"pwd": st.Bundle + "\n", "args": "one two words\n", "env": "PATH=/usr/bin:/bin\nK=v w\n",
	} {
		if got := read(t, filepath.Join(st.Bundle, file)); got != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

// runc's hooks have the environment of runc where they have none of their own.
func TestHookWithoutEnvironmentGetsOurs(t *testing.T) {
	t.Setenv("OURS", "is this")
	st := testState(t)
	h := script(t, `echo "$OURS" > env`)
	if err := Run(context.Background(), Prestart, []specs.Hook{h}, st); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(st.Bundle, "env")); got != "is this\n" {
		t.Errorf("environment %q", got)
	}
}

// argv[0] is the hook's, and the path's where there are no arguments.
func TestArgumentZero(t *testing.T) {
	st := testState(t)
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	list := []specs.Hook{{Path: sh, Args: []string{"zero", "-c", `echo "$0" > a`}}}
	if err := Run(context.Background(), Prestart, list, st); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(st.Bundle, "a")); got != "zero\n" {
		t.Errorf("argv[0] %q", got)
	}
	h := script(t, `echo $# > n`)
	h.Args = nil
	if err := Run(context.Background(), Prestart, []specs.Hook{h}, st); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(st.Bundle, "n")); got != "0\n" {
		t.Errorf("arguments %q", got)
	}
}

func TestHooksRunInOrderUntilOneFails(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		want string
	}{{Prestart, "1\n2\n"}, {CreateRuntime, "1\n2\n"}, {CreateContainer, "1\n2\n"}, {Poststart, "1\n2\n"}, {Poststop, "1\n2\n3\n4\n"}} {
		t.Run(string(c.kind), func(t *testing.T) {
			st := testState(t)
			list := []specs.Hook{
				script(t, "echo 1 >> log"), script(t, "echo 2 >> log; exit 1"),
				script(t, "echo 3 >> log"), script(t, "echo 4 >> log; exit 1"),
			}
			if err := Run(context.Background(), c.kind, list, st); err == nil {
				t.Fatal("no error")
			}
			if got := read(t, filepath.Join(st.Bundle, "log")); got != c.want {
				t.Errorf("ran %q, want %q", got, c.want)
			}
		})
	}
}

// The texts are those that Debian's runc 1.1.5 printed for the same hooks,
// after "runc create failed: unable to start container process: " (prestart,
// createRuntime, createContainer), "runc create failed: " (poststart: it runs
// them in create) or nothing (poststop).
func TestErrorTextsAreThoseOfRunc(t *testing.T) {
	fail := "echo out; echo err >&2; exit 3"
	for _, c := range []struct {
		name    string
		kind    Kind
		body    string
		timeout *int
		want    string
	}{
		{"prestart", Prestart, fail, nil, "error during container init: error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n"},
		{"createRuntime", CreateRuntime, fail, nil, "error during container init: error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n"},
		{"createContainer", CreateContainer, fail, nil, "error during container init: error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n"},
		{"poststart", Poststart, fail, nil, "error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n"},
		{"poststop", Poststop, fail, nil, "error running hook #0: error running hook: exit status 3, stdout: out\n, stderr: err\n"},
		{"signal", CreateRuntime, "kill -9 $$", nil, "error during container init: error running hook #0: error running hook: signal: killed, stdout: , stderr: "},
		{"timeout", CreateRuntime, "sleep 30", seconds(1), "error during container init: error running hook #0: hook ran past specified timeout of 1.0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := script(t, c.body)
			h.Env = []string{"PATH=/usr/bin:/bin"}
			h.Timeout = c.timeout
			err := Run(context.Background(), c.kind, []specs.Hook{h}, testState(t))
			if err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if got := errors.Is(err, ErrTimeout); got != (c.timeout != nil) {
				t.Errorf("ErrTimeout: %v", got)
			}
			if c.timeout == nil {
				if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
					t.Error("no *exec.ExitError")
				}
			}
		})
	}
}

func TestHooksThatCannotRun(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		hook specs.Hook
		want string
		is   error
	}{
		{"relative", specs.Hook{Path: "bin/x"}, `invalid hook: hooks.prestart[1].path: "bin/x" is not an absolute path`, ErrInvalid},
		{"name", specs.Hook{Path: "sh"}, `invalid hook: hooks.prestart[1].path: "sh" is not an absolute path`, ErrInvalid},
		{"empty", specs.Hook{}, `invalid hook: hooks.prestart[1].path: "" is not an absolute path`, ErrInvalid},
		{"timeout 0", specs.Hook{Path: "/bin/true", Timeout: seconds(0)}, "invalid hook: hooks.prestart[1].timeout: 0 is not more than zero seconds", ErrInvalid},
		{"timeout -1", specs.Hook{Path: "/bin/true", Timeout: seconds(-1)}, "invalid hook: hooks.prestart[1].timeout: -1 is not more than zero seconds", ErrInvalid},
		{"missing", specs.Hook{Path: "/nonexistent/hook"}, "fork/exec /nonexistent/hook: no such file or directory", fs.ErrNotExist},
		{"not executable", specs.Hook{Path: plain}, "fork/exec " + plain + ": permission denied", fs.ErrPermission},
	} {
		t.Run(c.name, func(t *testing.T) {
			list := []specs.Hook{script(t, "exit 0"), c.hook}
			err := Run(context.Background(), Prestart, list, testState(t))
			if err == nil || err.Error() != "error during container init: error running hook #1: "+c.want {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
			if !errors.Is(err, c.is) {
				t.Errorf("%v is not %v", err, c.is)
			}
			err = Check(&specs.Hooks{CreateRuntime: list})
			if errors.Is(c.is, ErrInvalid) != (err != nil) {
				t.Errorf("Check: %v", err)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	bad := []specs.Hook{{Path: "x"}}
	for name, h := range map[string]*specs.Hooks{
		"prestart":        {Prestart: bad},
		"createRuntime":   {CreateRuntime: bad},
		"createContainer": {CreateContainer: bad},
		"poststart":       {Poststart: bad},
		"poststop":        {Poststop: bad},
	} {
		if err := Check(h); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "hooks."+name+"[0].path") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, h := range []*specs.Hooks{nil, {}, {StartContainer: bad}, {Poststop: []specs.Hook{{Path: "/x", Timeout: seconds(1)}}}} {
		if err := Check(h); err != nil {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

func TestOtherKindsDoNotRunHere(t *testing.T) {
	st := testState(t)
	err := Run(context.Background(), "startContainer", []specs.Hook{script(t, "touch ran")}, st)
	if !errors.Is(err, ErrInvalid) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(st.Bundle, "ran")); err == nil {
		t.Error("the hook ran")
	}
}

// A daemon that a hook leaves behind keeps the hook's stdout: the hook is over
// all the same, and the daemon lives on.
func TestChildThatHoldsTheOutputIsNotWaitedFor(t *testing.T) {
	for _, c := range []struct{ name, end, want string }{
		{"hook succeeds", "exit 0", ""},
		{"hook fails", "echo no >&2; exit 7", "error during container init: error running hook #0: error running hook: exit status 7, stdout: , stderr: no\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := testState(t)
			h := script(t, "sleep 60 & echo $! > pid; "+c.end)
			h.Env = []string{"PATH=/usr/bin:/bin"}
			begin := time.Now()
			err := Run(context.Background(), Prestart, []specs.Hook{h}, st)
			took := time.Since(begin)
			pid, perr := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(st.Bundle, "pid"))))
			if perr != nil {
				t.Fatal(perr)
			}
			if kerr := syscall.Kill(pid, syscall.SIGKILL); kerr != nil {
				t.Errorf("the child has not survived: %v", kerr)
			}
			if took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

// The timeout, and the caller's, end a hook's children too. A pipe whose
// writing end they all hold tells: it reaches its end.
func TestKillTakesTheProcessGroupAlong(t *testing.T) {
	for _, c := range []struct {
		name    string
		timeout *int
		limit   time.Duration
		is      error
	}{
		{"hook's timeout", seconds(1), time.Minute, ErrTimeout},
		{"caller's timeout", seconds(60), time.Second, context.DeadlineExceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			st := testState(t)
			fifo := filepath.Join(st.Bundle, "fifo")
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := os.OpenFile(fifo, os.O_RDONLY|syscall.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			h := script(t, "exec 3> fifo; echo up >&3; sleep 60 & sleep 60")
			h.Env = []string{"PATH=/usr/bin:/bin"}
			h.Timeout = c.timeout
			ctx, cancel := context.WithTimeout(context.Background(), c.limit)
			defer cancel()
			if err := Run(ctx, CreateRuntime, []specs.Hook{h}, st); !errors.Is(err, c.is) {
				t.Errorf("error %v, want %v", err, c.is)
			}
			r.SetReadDeadline(time.Now().Add(10 * time.Second))
			buf := make([]byte, 64)
			n, err := r.Read(buf)
			if string(buf[:n]) != "up\n" || err != nil {
				t.Fatalf("the hook never ran: %q, %v", buf[:n], err)
			}
			if n, err := r.Read(buf); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a child of the hook lives: %v", err)
			}
		})
	}
}

func TestEndedContextRunsNothing(t *testing.T) {
	st := testState(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := Run(ctx, Poststart, []specs.Hook{script(t, "touch ran")}, st)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(st.Bundle, "ran")); err == nil {
		t.Error("the hook ran")
	}
}

// The output in an error is bounded, keeps its end, and a hook that writes a
// lot does not block.
func TestOutputIsBounded(t *testing.T) {
	h := script(t, `i=0; while [ $i -lt 3000 ]; do echo "line $i of a hook that has much to tell, 60 bytes of text"; i=$((i+1)); done; exit 1`)
	err := Run(context.Background(), Poststop, []specs.Hook{h}, testState(t))
	if err == nil || !strings.Contains(err.Error(), "stdout: …") || !strings.Contains(err.Error(), "line 2999 of") {
		t.Fatalf("error %.200q", err)
	}
	if n := len(err.Error()); n > outputLimit+200 {
		t.Errorf("error of %d bytes", n)
	}
}

// A hook need not read the state, and it may be larger than a pipe.
func TestStateIsNotRead(t *testing.T) {
	st := testState(t)
	st.Annotations["big"] = strings.Repeat("x", 1<<20)
	if err := Run(context.Background(), Prestart, []specs.Hook{script(t, "exit 0")}, st); err != nil {
		t.Error(err)
	}
}

func TestBundleThatIsGone(t *testing.T) {
	st := testState(t)
	out := filepath.Join(t.TempDir(), "pwd")
	if err := os.Remove(st.Bundle); err != nil {
		t.Fatal(err)
	}
	if err := Run(context.Background(), Poststop, []specs.Hook{script(t, "pwd > "+out)}, st); err != nil {
		t.Fatal(err)
	}
	if got := read(t, out); got != "/\n" {
		t.Errorf("ran in %q", got)
	}
}
