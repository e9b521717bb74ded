// Package timens makes time namespaces (time_namespaces(7)) and starts programs
// in them. It is used by the agent only.
package timens

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a time namespace. A process cannot move into one while it has
// threads, so it is a thread that has it, for its children: programs are
// started by that thread.
type Namespace struct {
	jobs  chan func()
	close context.CancelFunc
	done  chan struct{} // closed when the thread has ended
}

// New makes a namespace. The offsets of its clocks are in the lines that
// /proc/PID/timens_offsets takes: a clock, seconds and nanoseconds. One that
// would make a clock negative is ERANGE; EINVAL is a kernel without time
// namespaces.
func New(offsets []byte) (*Namespace, error) {
	ctx, cancel := context.WithCancel(context.Background())
	n := &Namespace{jobs: make(chan func()), close: cancel, done: make(chan struct{})}
	made := make(chan error)
	go func() {
		defer close(n.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unshare(offsets)
		made <- err
		if err != nil {
			return
		}
		for {
			select {
			case job := <-n.jobs:
				job()
			case <-ctx.Done():
				return
			}
		}
	}()
	if err := <-made; err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// Close lets go of the namespace, which lives on in its processes. It may be
// called again.
func (n *Namespace) Close() {
	n.close()
	<-n.done
}

// unshare gives the calling thread a new namespace for its children.
func unshare(offsets []byte) error {
	if err := unix.Unshare(unix.CLONE_NEWTIME); err != nil {
		return fmt.Errorf("make a time namespace: %w", err)
	}
	// The thread's, by its number: the folder of /proc/thread-self lacks it.
	f, err := os.OpenFile("/proc/"+strconv.Itoa(unix.Gettid())+"/timens_offsets", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if len(offsets) == 0 {
		return nil
	}
	if _, err := unix.Write(int(f.Fd()), offsets); err != nil {
		return fmt.Errorf("set the offsets of a time namespace: %w", err)
	}
	return nil
}

// ForkExec is syscall.ForkExec with a child in the namespace. Of attr, Sys has
// to be nil. It gives os.ErrClosed once the namespace is closed.
func (n *Namespace) ForkExec(argv0 string, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	c, err := newChild(argv0, argv, attr)
	if err != nil {
		return 0, err
	}
	defer c.close()
	ended := make(chan struct{})
	job := func() {
		defer close(ended)
		pid, err = c.start()
	}
	select {
	case n.jobs <- job:
		<-ended
		return pid, err
	case <-n.done:
		return 0, os.ErrClosed
	}
}
