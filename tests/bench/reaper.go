package main

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper waits for every child and orphan of this process, as conmon does: a
// runtime's helpers that end must not stay zombies, since some runtimes wait
// for them to go.
type reaper struct {
	mu   sync.Mutex // guards dead
	cond *sync.Cond
	dead map[int]unix.WaitStatus
	work chan struct{} // has room for a token: there may be a child
}

func newReaper() *reaper {
	r := &reaper{dead: make(map[int]unix.WaitStatus), work: make(chan struct{}, 1)}
	r.cond = sync.NewCond(&r.mu)
	go func() {
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, 0, nil)
			switch {
			case err == unix.ECHILD:
				<-r.work
			case err == nil:
				r.mu.Lock()
				r.dead[pid] = ws
				r.cond.Broadcast()
				r.mu.Unlock()
			}
		}
	}()
	return r
}

// wait gives the status of a child once it has ended.
func (r *reaper) wait(pid int) unix.WaitStatus {
	select {
	case r.work <- struct{}{}:
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if ws, ok := r.dead[pid]; ok {
			delete(r.dead, pid)
			return ws
		}
		r.cond.Wait()
	}
}

// run starts a program with /dev/null and stderr, and waits for its end.
func (r *reaper) run(argv []string, stderr *os.File) (unix.WaitStatus, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Files: []*os.File{null, null, stderr}})
	if err != nil {
		return 0, err
	}
	defer p.Release()
	return r.wait(p.Pid), nil
}
