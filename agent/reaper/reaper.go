// Package reaper waits for every child of the process it runs in: the agent,
// PID 1 of the guest, which inherits each orphan. It is the only caller of
// wait4; os/exec's Wait must not be used beside it, since wait4(-1) steals
// the statuses that os/exec waits for.
package reaper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// maxStrays bounds how many exits of unknown processes a Watch remembers.
const maxStrays = 1024

// LostCode is the exit code of a claimed process whose status was reaped
// before anybody asked for it, or forgotten.
const LostCode = 255

// Reaper collects exit statuses and hands them to whoever started or claimed
// the process.
type Reaper struct {
	sigchld chan os.Signal

	// mu is held for every fork, wait4 and kill, so that an exit is never
	// published before its start is registered, and so that a pid that is
	// in children has not been reaped: a signal cannot hit a successor.
	mu       sync.Mutex
	children map[int]*Child
	watches  map[*Watch]struct{}
	tick     chan struct{} // closed and replaced when something was reaped
}

// New gives a Reaper. It sees nothing until Run is called.
func New() *Reaper {
	r := &Reaper{
		sigchld:  make(chan os.Signal, 1),
		children: map[int]*Child{},
		watches:  map[*Watch]struct{}{},
		tick:     make(chan struct{}),
	}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	return r
}

// Run reaps until ctx ends.
func (r *Reaper) Run(ctx context.Context) {
	defer signal.Stop(r.sigchld)
	for {
		r.reap()
		select {
		case <-ctx.Done():
			return
		case <-r.sigchld:
		}
	}
}

// reap collects every child that has ended. SIGCHLD coalesces, so one signal
// may stand for many of them.
func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	reaped := false
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		reaped = true
		r.publish(pid, exitCode(ws))
	}
	if reaped {
		close(r.tick)
		r.tick = make(chan struct{})
	}
}

// publish is called with mu held.
func (r *Reaper) publish(pid, code int) {
	if c, ok := r.children[pid]; ok {
		delete(r.children, pid)
		c.end(code)
		return
	}
	for w := range r.watches {
		if len(w.strays) < maxStrays {
			w.strays[pid] = code
		}
	}
}

func exitCode(ws syscall.WaitStatus) int {
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Next gives a channel that is closed when the next process has been reaped.
// It is for waits on what an exit may have released.
func (r *Reaper) Next() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tick
}

// Command is a program to start. Nothing is inherited but Fds.
type Command struct {
	Path string
	Args []string // including argv[0]
	Env  []string
	Dir  string
	Fds  []int // file descriptors of the child, from 0 on
	// Fork starts it: syscall.ForkExec where it is nil.
	Fork func(argv0 string, argv []string, attr *syscall.ProcAttr) (pid int, err error)
}

// Start runs a program.
func (r *Reaper) Start(cmd Command) (*Child, error) {
	files := make([]uintptr, len(cmd.Fds))
	for i, fd := range cmd.Fds {
		files[i] = uintptr(fd)
	}
	fork := cmd.Fork
	if fork == nil {
		fork = syscall.ForkExec
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := fork(cmd.Path, cmd.Args, &syscall.ProcAttr{
		Dir: cmd.Dir, Env: cmd.Env, Files: files,
	})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return r.add(pid), nil
}

// add is called with mu held.
func (r *Reaper) add(pid int) *Child {
	c := &Child{Pid: pid, reaper: r, done: make(chan struct{})}
	r.children[pid] = c
	return c
}

// Watch remembers the exits of processes that nobody has registered, from its
// making until Close, so that a process which somebody else starts for us (and
// which may end at once) can still be claimed. The memory is bounded.
type Watch struct {
	reaper *Reaper
	strays map[int]int // guarded by reaper.mu
}

// Watch starts remembering.
func (r *Reaper) Watch() *Watch {
	w := &Watch{reaper: r, strays: map[int]int{}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watches[w] = struct{}{}
	return w
}

// Close forgets what was not claimed.
func (w *Watch) Close() {
	w.reaper.mu.Lock()
	defer w.reaper.mu.Unlock()
	delete(w.reaper.watches, w)
}

// Claim registers an orphan by its pid, which must have been started after
// the Watch was made. A process that is gone and whose exit was not seen
// counts as ended with LostCode.
func (w *Watch) Claim(pid int) *Child {
	r := w.reaper
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.add(pid)
	code, seen := w.strays[pid]
	if !seen && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		code, seen = LostCode, true
	}
	if seen {
		delete(w.strays, pid)
		delete(r.children, pid)
		c.end(code)
	}
	return c
}

// Child is a process whose exit is waited for.
type Child struct {
	Pid    int
	reaper *Reaper
	done   chan struct{}
	code   int // written before done is closed
}

func (c *Child) end(code int) {
	c.code = code
	close(c.done)
}

// Done is closed when the process has been reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Code is the exit code, 128+N for an end by signal N. It is valid once Done
// is closed.
func (c *Child) Code() int { return c.code }

// Signal sends a signal. It gives ESRCH when the process has been reaped, and
// cannot hit another process that has got the pid since.
func (c *Child) Signal(sig syscall.Signal) error {
	c.reaper.mu.Lock()
	defer c.reaper.mu.Unlock()
	select {
	case <-c.done:
		return syscall.ESRCH
	default:
	}
	return syscall.Kill(c.Pid, sig)
}
