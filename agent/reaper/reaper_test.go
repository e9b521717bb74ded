package reaper

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTestReaper makes the test a subreaper, as PID 1 is by nature. No test of
// this package may use os/exec.
func newTestReaper(t *testing.T) *Reaper {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := New()
	stopped := make(chan struct{})
	ctx := t.Context()
	go func() { r.Run(ctx); close(stopped) }()
	t.Cleanup(func() { <-stopped })
	return r
}

func (r *Reaper) sh(t *testing.T, script string) *Child {
	t.Helper()
	c, err := r.Start(Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Fds: []int{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func await(t *testing.T, c *Child) int {
	t.Helper()
	select {
	case <-c.Done():
		return c.Code()
	case <-time.After(20 * time.Second):
		t.Fatal("the exit was not seen")
		return 0
	}
}

func TestExitCodes(t *testing.T) {
	r := newTestReaper(t)
	for script, want := range map[string]int{
		"exit 0": 0, "exit 3": 3, "kill -9 $$": 137, "kill -15 $$": 143,
	} {
		if got := await(t, r.sh(t, script)); got != want {
			t.Errorf("%q: code %d, want %d", script, got, want)
		}
	}
}

// TestMany starts children that end at once: no exit may be published before
// its start is known.
func TestMany(t *testing.T) {
	r := newTestReaper(t)
	var cs []*Child
	for i := range 200 {
		cs = append(cs, r.sh(t, "exit "+strconv.Itoa(i%100)))
	}
	for i, c := range cs {
		if got := await(t, c); got != i%100 {
			t.Fatalf("child %d: code %d", i, got)
		}
	}
}

func TestStartFails(t *testing.T) {
	r := newTestReaper(t)
	if _, err := r.Start(Command{Path: "/nothing"}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("got %v, want ENOENT", err)
	}
}

// orphan starts a process whose parent is gone. It runs script once release is
// called.
func orphan(t *testing.T, r *Reaper, script string) (pid int, release func()) {
	t.Helper()
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pw.Close() })
	file := filepath.Join(t.TempDir(), "pid")
	c, err := r.Start(Command{
		Path: "/bin/sh", Args: []string{"sh", "-c", "(read x <&3; " + script + ") & echo $! > " + file},
		Fds: []int{0, 1, 2, int(pr.Fd())},
	})
	if err != nil {
		t.Fatal(err)
	}
	pr.Close()
	if code := await(t, c); code != 0 {
		t.Fatalf("parent's code %d", code)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
		t.Fatal(err)
	}
	return pid, func() { pw.Close() }
}

func TestClaimLiving(t *testing.T) {
	r := newTestReaper(t)
	w := r.Watch()
	defer w.Close()
	pid, _ := orphan(t, r, "true")
	c := w.Claim(pid)
	if err := c.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if got := await(t, c); got != 143 {
		t.Errorf("code %d, want 143", got)
	}
	if err := c.Signal(syscall.SIGTERM); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal after the end: %v, want ESRCH", err)
	}
}

func TestClaimDead(t *testing.T) {
	r := newTestReaper(t)
	w := r.Watch()
	defer w.Close()
	pid, release := orphan(t, r, "exit 7")
	release()
	r.awaitGone(pid)
	if got := await(t, w.Claim(pid)); got != 7 {
		t.Errorf("code %d, want 7", got)
	}
}

func TestClaimUnseen(t *testing.T) {
	r := newTestReaper(t)
	pid, release := orphan(t, r, "exit 7") // nobody watches
	release()
	r.awaitGone(pid)
	w := r.Watch()
	defer w.Close()
	if got := await(t, w.Claim(pid)); got != LostCode {
		t.Errorf("code %d, want %d", got, LostCode)
	}
}

// awaitGone waits until a process has been reaped.
func (r *Reaper) awaitGone(pid int) {
	for {
		next := r.Next()
		if !r.alive(pid) {
			return
		}
		<-next
	}
}

// alive looks under the lock, so that an exit has been published when it says
// no.
func (r *Reaper) alive(pid int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return syscall.Kill(pid, 0) == nil
}

func TestStraysAreBounded(t *testing.T) {
	r := New()
	w := r.Watch()
	r.mu.Lock()
	for pid := range 10 * maxStrays {
		r.publish(pid+1, 0)
	}
	r.mu.Unlock()
	if len(w.strays) != maxStrays {
		t.Errorf("%d strays remembered, want %d", len(w.strays), maxStrays)
	}
	w.Close()
	if len(r.watches) != 0 {
		t.Error("a closed watch stays")
	}
}
