// Package filelock waits for locks of files, by the kernel's word that they are
// free and not by looking again and again. Every process of the host uses it.
package filelock

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Flock is flock(2), which signals do not interrupt.
func Flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// Wait takes a lock, and gives the cause of ctx's end where that comes first.
// lock blocks until it has the lock, as flock(2) does; giveBack undoes that.
//
// The wait in the kernel cannot be interrupted (Go's signal handlers restart it).
// So a goroutine does it, which is left to itself when ctx ends: should it ever
// get the lock, it calls giveBack.
func Wait(ctx context.Context, lock func() error, giveBack func()) error {
	got := make(chan error, 1)
	go func() { got <- lock() }()
	select {
	case err := <-got:
		return err
	case <-ctx.Done():
		go func() {
			if <-got == nil {
				giveBack()
			}
		}()
		return context.Cause(ctx)
	}
}
