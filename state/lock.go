package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/filelock"
)

// Lock is the lock of one container or sandbox id, held.
type Lock struct {
	file    *flock.Flock
	path    string
	name    string // what it is a lock of, for the trace
	release sync.Once
	err     error
}

// Lock takes the lock of a container id and waits for it until ctx ends. Who
// creates, starts, pauses, resumes, updates or deletes a container holds it.
// It dies with its holder, and is not reentrant.
//
// It is a flock(2), which the kernel hands on to a waiter as soon as it is free.
func (s *Store) Lock(ctx context.Context, id string) (*Lock, error) {
	l, err := s.lock(locksDir, id, func(l *Lock) error { return l.wait(ctx) })
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", id, err)
	}
	return l, nil
}

// TryLock is Lock without waiting. It gives nil where somebody else holds the
// lock.
func (s *Store) TryLock(id string) (*Lock, error) {
	l, err := s.lock(locksDir, id, (*Lock).try)
	if errors.Is(err, errHeld) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("lock container %s: %w", id, err)
	}
	return l, nil
}

// errHeld is what a lock gives that is not waited for.
var errHeld = errors.New("another operation holds it")

// LockSandbox is Lock for a sandbox. Who starts its monitor, joins it, or
// removes what an ended one has left holds it, since the containers of a pod
// come and go independently of each other. It is taken while the lock of a
// container is held, never the other way round.
func (s *Store) LockSandbox(ctx context.Context, id string) (*Lock, error) {
	l, err := s.lock(sandboxLocksDir, id, func(l *Lock) error { return l.wait(ctx) })
	if err != nil {
		return nil, fmt.Errorf("lock sandbox %s: %w", id, err)
	}
	return l, nil
}

func (s *Store) lock(kind, id string, get func(*Lock) error) (*Lock, error) {
	if err := ValidateID(id); err != nil {
		return nil, err
	}
	dir, err := s.makeKind(kind)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	keepSpare(dir)
	spared := false
	for {
		l := &Lock{path: s.path(kind, id)}
		// The library opens the file, here so that a symlink is an error.
		l.file = flock.New(l.path, flock.SetFlag(os.O_CREATE|os.O_RDONLY|unix.O_NOFOLLOW))
		err := get(l)
		if !spared && (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) {
			spared = true
			if useSpare(dir, id) {
				continue
			}
		}
		if err != nil {
			return nil, err
		}
		current, err := l.current()
		if err == nil && current {
			l.sign()
			l.name = kind
			failpoint.Trace("take", kind)
			return l, nil
		}
		if err := errors.Join(err, l.file.Unlock()); err != nil {
			return nil, err
		}
	}
}

// spare is a file in a folder of locks that becomes the file of a lock where the
// file system has no room for another one: what has to be deleted then needs a
// lock as well. It is no id, and not removed.
const spare = "spare~"

// keepSpare makes the spare where there is none. Without room there is none for
// now.
func keepSpare(dir *os.File) {
	fd, err := unix.Openat(int(dir.Fd()), spare, unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
}

// useSpare gives the spare the name of a lock, which takes no room. It reports
// whether there is a file of that name now.
func useSpare(dir *os.File, id string) bool {
	err := unix.Renameat2(int(dir.Fd()), spare, int(dir.Fd()), id, unix.RENAME_NOREPLACE)
	return err == nil || errors.Is(err, unix.EEXIST)
}

// try gets the flock if nobody has it, and gives errHeld where somebody does.
func (l *Lock) try() error {
	ok, err := l.file.TryLock()
	if err == nil && !ok {
		err = errHeld
	}
	return err
}

// wait gets the flock of whatever file is at the path now.
func (l *Lock) wait(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := l.try(); !errors.Is(err, errHeld) {
		return err
	}
	err := filelock.Wait(ctx, l.file.Lock, l.giveBack)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", errHeld, err)
	}
	return err
}

// current reports whether the locked file is the one at the path. It is not
// where the last holder has removed it: then the lock belongs to who holds
// the new file.
func (l *Lock) current() (bool, error) {
	mine, err := l.file.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return os.SameFile(mine, there), nil
}

// giveBack is Release for a lock that may be on a file which is not current.
func (l *Lock) giveBack() {
	if current, err := l.current(); err == nil && current {
		l.Release()
		return
	}
	l.file.Unlock()
}

// Release gives the lock to the next one who waits, and removes its file.
// Only the first call does something; all give its error.
func (l *Lock) Release() error {
	l.release.Do(func() {
		// Removed while it is held, and only by its holder: who waits for
		// the removed file finds it gone, and begins anew.
		l.err = errors.Join(os.Remove(l.path), l.file.Unlock())
		if l.name != "" {
			failpoint.Trace("release", l.name)
		}
	})
	return l.err
}

// FreeLock is the file of a lock that nobody holds.
type FreeLock struct {
	ID, Path string
	s        *Store
	kind     string
}

// FreeLocks finds what holders that were killed have left.
func (s *Store) FreeLocks() ([]FreeLock, error) {
	var free []FreeLock
	for _, kind := range []string{locksDir, sandboxLocksDir} {
		entries, err := os.ReadDir(s.path(kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list locks: %w", err)
		}
		for _, e := range entries {
			f := FreeLock{ID: e.Name(), Path: s.path(kind, e.Name()), s: s, kind: kind}
			if ValidateID(f.ID) != nil || !e.Type().IsRegular() {
				continue
			}
			probe := flock.New(f.Path, flock.SetFlag(os.O_RDONLY|unix.O_NOFOLLOW))
			ok, err := probe.TryLock()
			if err == nil && ok {
				free = append(free, f)
			}
			if err := probe.Unlock(); err != nil {
				return nil, fmt.Errorf("look at lock %s: %w", f.Path, err)
			}
		}
	}
	return free, nil
}

// Remove removes the file, unless somebody holds it by now.
func (f *FreeLock) Remove() error {
	l, err := f.s.lock(f.kind, f.ID, (*Lock).try)
	if err != nil {
		return err
	}
	return l.Release()
}
