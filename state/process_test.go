package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func find(t *testing.T, pid int) Process {
	t.Helper()
	p, err := FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func soon(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestProcessAlive(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		p    Process
		want bool
	}{
		"self":               {self, true},
		"zero":               {Process{}, false},
		"negative pid":       {Process{Pid: -1, StartTime: 1}, false},
		"reused pid":         {Process{Pid: self.Pid, StartTime: self.StartTime + 1}, false},
		"pid without start":  {Process{Pid: self.Pid}, false},
		"pid out of range":   {Process{Pid: 1 << 30, StartTime: 1}, false},
		"another start of 1": {Process{Pid: 1, StartTime: self.StartTime}, false},
	} {
		if got := c.p.Alive(); got != c.want {
			t.Errorf("%s: alive %t, want %t", name, got, c.want)
		}
	}
}

// A signal for a process whose pid was reused must not reach the new one.
func TestProcessReusedPid(t *testing.T) {
	c := startChild(t, nil, "sleep")
	c.line(t)
	p := find(t, c.Process.Pid)
	stale := Process{Pid: p.Pid, StartTime: p.StartTime - 1}
	if err := stale.Signal(unix.SIGKILL); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal: %v, want ESRCH", err)
	}
	if err := stale.Kill(soon(t)); err != nil {
		t.Errorf("kill: %v", err)
	}
	if err := stale.Wait(soon(t)); err != nil {
		t.Errorf("wait: %v", err)
	}
	if !p.Alive() {
		t.Error("the wrong process was killed")
	}
}

// A pid may come back as the id of another process's thread, of which no
// pidfd can be had.
func TestProcessPidIsThreadNow(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	id := os.Getpid()
	for id == os.Getpid() { // one of two goroutines gets another than the first thread
		tid := make(chan int)
		go func() {
			runtime.LockOSThread()
			tid <- unix.Gettid()
			<-stop
		}()
		id = <-tid
	}
	p := Process{Pid: id, StartTime: 1}
	if p.Alive() {
		t.Error("alive")
	}
	if err := p.Kill(soon(t)); err != nil {
		t.Errorf("kill: %v", err)
	}
}

func TestProcessZombieIsNotAlive(t *testing.T) {
	c := startChild(t, nil, "sleep")
	c.line(t)
	p := find(t, c.Process.Pid)
	c.Process.Kill()
	// Waits for the end, and leaves the zombie.
	if err := unix.Waitid(unix.P_PID, p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	if st, err := readStat(p.Pid); err != nil || st.state != 'Z' {
		t.Fatalf("no zombie: %+v, %v", st, err)
	}
	if p.Alive() {
		t.Error("alive")
	}
	if err := p.Signal(0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("signal: %v, want ESRCH", err)
	}
	if err := p.Wait(soon(t)); err != nil {
		t.Errorf("wait: %v", err)
	}
}

// playLeaderless ends its first thread and goes on with the others.
func playLeaderless([]string) int {
	go func() {
		untilEOF()
		os.Exit(0)
	}()
	runtime.LockOSThread() // the main goroutine's thread is not always the first
	if unix.Gettid() == os.Getpid() {
		syscall.Syscall(unix.SYS_EXIT, 0, 0, 0)
	}
	select {}
}

// While a process with several threads dies, its first thread can be a zombie
// long before the last has released what the process holds.
func TestProcessWithZombieLeaderIsAlive(t *testing.T) {
	c := startChild(t, nil, "leaderless")
	c.line(t)
	p := find(t, c.Process.Pid)
	deadline := time.Now().Add(5 * time.Second)
	for {
		st, err := readStat(p.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if st.state == 'Z' {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the first thread does not end: what this test is about cannot be seen")
		}
		time.Sleep(time.Millisecond)
	}
	if !p.Alive() {
		t.Fatal("not alive, although threads still run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := p.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("wait: %v, want the deadline", err)
	}
	if err := p.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if p.Alive() {
		t.Error("alive after Kill")
	}
}

// The shim is nobody's child but its subreaper's, and commands wait for it.
func TestProcessWaitNonChild(t *testing.T) {
	// A shell that starts a grandchild and says its pid.
	c := startChild(t, nil, "sleep")
	c.line(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	sh, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "sleep 60 >/dev/null & echo $!"},
		&os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sh.Wait(); err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	p := find(t, pid)
	done := make(chan error, 1)
	go func() { done <- p.Wait(soon(t)) }()
	select {
	case err := <-done:
		t.Fatalf("returned while the process lives: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := p.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if p.Alive() {
		t.Error("alive after Kill")
	}
}

func TestProcessWaitEndsWithContext(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	cause := func(ctx context.Context) error { return self.Wait(ctx) }
	warm, cancel := context.WithCancel(context.Background())
	cancel()
	cause(warm) // whatever the runtime opens once
	before := openFDs(t)
	for range 50 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		if err := cause(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("deadline: %v", err)
		}
		cancel()
		ctx, cancel = context.WithCancel(context.Background())
		cancel()
		if err := cause(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled before: %v", err)
		}
	}
	if after := openFDs(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

func openFDs(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// Death must not be concluded from a failure to look.
func TestProcessUnknownCountsAsAlive(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	alive, waitErr := self.Alive(), self.Wait(context.Background())
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	if !alive {
		t.Error("not alive, for lack of descriptors")
	}
	if !errors.Is(waitErr, unix.EMFILE) {
		t.Errorf("wait: %v, want EMFILE", waitErr)
	}
}

func TestFindProcessGone(t *testing.T) {
	if _, err := FindProcess(1 << 30); !errors.Is(err, unix.ESRCH) {
		t.Errorf("%v, want ESRCH", err)
	}
}

func TestParseStat(t *testing.T) {
	rest := " S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 42 18 987654 20 21"
	for _, name := range []string{"sh", "a b", ") Z 1 (", "\n)", ""} {
		got, err := parseStat(fmt.Appendf(nil, "7 (%s)%s", name, rest))
		if want := (stat{start: 987654, state: 'S', flags: 6, threads: 42}); err != nil || got != want {
			t.Errorf("name %q: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(self)
	f.Add([]byte("1 (a"))
	f.Add([]byte("1 (a) S 1"))
	f.Add(bytes.Repeat([]byte(") 1 "), 30))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}
