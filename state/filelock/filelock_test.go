package filelock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what takes no time where nothing is wrong.
const patience = time.Minute

// held is a file with a lock on it.
func held(t *testing.T) (path string, holder *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "lock")
	holder = open(t, path)
	if err := unix.Flock(int(holder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return path, holder
}

func open(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestWait(t *testing.T) {
	path, holder := held(t)
	f := open(t, path)
	blocked, got := make(chan struct{}), make(chan error, 1)
	go func() {
		got <- Wait(t.Context(), func() error {
			close(blocked)
			return unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}, func() { t.Error("the lock was given back") })
	}()
	<-blocked
	select {
	case err := <-got:
		t.Fatalf("somebody else's lock was taken: %v", err)
	default:
	}
	holder.Close()
	select {
	case err := <-got:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the free lock is not taken")
	}
}

// TestWaitGivesUp ends the wait, and then frees the lock: nobody keeps it.
func TestWaitGivesUp(t *testing.T) {
	path, holder := held(t)
	f := open(t, path)
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	given := make(chan struct{})
	err := Wait(ctx, func() error {
		cancel(enough)
		return unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}, func() { f.Close(); close(given) })
	if !errors.Is(err, enough) {
		t.Fatalf("got %v, expected %v", err, enough)
	}
	holder.Close()
	select {
	case <-given:
	case <-time.After(patience):
		t.Fatal("who gave up has not given the lock back")
	}
	if err := unix.Flock(int(open(t, path).Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Errorf("the lock is still held: %v", err)
	}
}

func TestWaitFails(t *testing.T) {
	err := Wait(t.Context(), func() error { return unix.EBADF }, func() { t.Error("what was not taken was given back") })
	if !errors.Is(err, unix.EBADF) {
		t.Errorf("got %v, expected %v", err, unix.EBADF)
	}
}
