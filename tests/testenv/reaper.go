package testenv

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// reaper reaps every child and every orphan that is handed to the suite, as
// conmon and containerd's shim do with wait4(-1). It therefore must start the
// suite's own children too: os/exec would miss their statuses.
type reaper struct {
	mu       sync.Mutex // guards the maps; held while a child is started
	statuses map[int]unix.WaitStatus
	waiting  map[int]chan struct{}
}

func startReaper() (*reaper, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become a subreaper: %w", err)
	}
	r := &reaper{statuses: make(map[int]unix.WaitStatus), waiting: make(map[int]chan struct{})}
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGCHLD)
	go func() { // for the life of the process
		for range c {
			r.reap()
		}
	}()
	return r, nil
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		r.statuses[pid] = ws
		if c := r.waiting[pid]; c != nil {
			close(c)
			delete(r.waiting, pid)
		}
	}
}

// start starts a child. An earlier status under the same pid is forgotten.
func (r *reaper) start(path string, argv []string, attr *os.ProcAttr) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	proc, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return 0, err
	}
	pid := proc.Pid
	delete(r.statuses, pid)
	return pid, proc.Release()
}

// wait gives the exit code (128+N after signal N) of a child or an adopted
// process, which may have ended already. It is false after limit.
func (r *reaper) wait(pid int, limit time.Duration) (code int, ok bool) {
	r.mu.Lock()
	ws, ended := r.statuses[pid]
	if !ended {
		c := r.waiting[pid]
		if c == nil {
			c = make(chan struct{})
			r.waiting[pid] = c
		}
		r.mu.Unlock()
		select {
		case <-c:
		case <-time.After(limit):
			return 0, false
		}
		r.mu.Lock()
		ws = r.statuses[pid]
	}
	defer r.mu.Unlock()
	if ws.Signaled() {
		return 128 + int(ws.Signal()), true
	}
	return ws.ExitStatus(), true
}

// own puts a child into a process group of its own, as callers do.
func own() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
