package timens

import (
	"errors"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// output runs a program and gives what it writes and its exit code.
func output(t *testing.T, fork func(string, []string, *syscall.ProcAttr) (int, error), argv ...string) (string, int, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pid, err := fork(argv[0], argv, &syscall.ProcAttr{
		Dir: "/", Env: []string{"A=b"}, Files: []uintptr{0, w.Fd(), 2},
	})
	w.Close()
	if err != nil {
		return "", 0, err
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	return string(text), ws.ExitStatus(), nil
}

// TestFork: the child has what it was given, and nothing else but what one of
// syscall.ForkExec has.
func TestFork(t *testing.T) {
	fork := func(path string, argv []string, attr *syscall.ProcAttr) (int, error) {
		c, err := newChild(path, argv, attr)
		if err != nil {
			return 0, err
		}
		defer c.close()
		return c.start()
	}
	const script = `echo "$0 $1 $A $(pwd)"; grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd | wc -l; exit 7`
	want, _, err := output(t, syscall.ForkExec, "/bin/sh", "-c", script, "name", "a b")
	if err != nil || !strings.HasPrefix(want, "name a b b /\nSigBlk:\t0000000000000000\nSigIgn:") { // what is ignored is inherited
		t.Fatal(err, want)
	}
	for range 20 {
		got, code, err := output(t, fork, "/bin/sh", "-c", script, "name", "a b")
		if err != nil || code != 7 || got != want {
			t.Fatalf("exit code %d, %v: %s; want 7 and %s", code, err, got, want)
		}
	}
	for path, want := range map[string]error{"/nonexistent": syscall.ENOENT, "/etc/passwd": syscall.EACCES} {
		if _, _, err := output(t, fork, path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

func TestNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: not root: unshare(CLONE_NEWTIME) needs CAP_SYS_ADMIN")
	}
	const day = 86400
	n, err := New([]byte("boottime 86400000 5\nmonotonic 7 0\n"))
	if errors.Is(err, syscall.EINVAL) {
		t.Skip("SKIPPED: this kernel lacks time namespaces (CONFIG_TIME_NS, Linux 5.6): there is nothing to make")
	}
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	for range 2 {
		got, code, err := output(t, n.ForkExec, "/bin/sh", "-c", "cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time")
		if err != nil || code != 0 {
			t.Fatal(code, err)
		}
		uptime, ns, _ := strings.Cut(strings.TrimSpace(got), "\n")
		if secs, err := strconv.Atoi(uptime); err != nil || secs < 1000*day {
			t.Errorf("uptime %s", uptime)
		}
		seen = append(seen, ns)
	}
	own, err := os.Readlink("/proc/self/ns/time")
	if err != nil {
		t.Fatal(err)
	}
	if seen[0] != seen[1] || seen[0] == own {
		t.Errorf("namespaces %v, this one is in %s", seen, own)
	}
	n.Close()
	n.Close()
	if _, _, err := output(t, n.ForkExec, "/bin/true"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("a closed namespace: %v", err)
	}
	if _, err := New([]byte("boottime -1000000000000 0\n")); !errors.Is(err, unix.ERANGE) {
		t.Errorf("a clock below 0: %v", err)
	}
}
