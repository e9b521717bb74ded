package store

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/filelock"
)

// openLock opens the file of a lock. It is close-on-exec, as a child that
// inherits it would keep the lock alive.
func openLock(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
}

// errBusy is given by tryFlock where somebody else has the lock.
var errBusy = errors.New("locked by another process")

func flock(f *os.File, how int) error {
	err := filelock.Flock(f, how)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errBusy
	}
	return wrap("flock", f.Name(), err)
}

func tryFlock(f *os.File, how int) error { return flock(f, how|unix.LOCK_NB) }

// waitFlock locks f, which is closed where it fails.
func waitFlock(ctx context.Context, f *os.File, how int) error {
	if err := context.Cause(ctx); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := tryFlock(f, how); !errors.Is(err, errBusy) {
		if err != nil {
			f.Close()
		}
		return err
	}
	err := filelock.Wait(ctx, func() error {
		err := flock(f, how)
		if err != nil {
			f.Close()
		}
		return err
	}, func() { f.Close() })
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	return err
}

// metaLock is the store's lock, held.
type metaLock struct {
	s    *Store
	file *os.File
	name string
}

// shared takes the store's lock to pin, to look, and to change a record.
func (s *Store) shared(ctx context.Context) (*metaLock, error) {
	return s.lockMeta(ctx, "meta.shared", unix.LOCK_SH)
}

// exclusive takes the store's lock to mark garbage and move it away.
func (s *Store) exclusive(ctx context.Context) (*metaLock, error) {
	return s.lockMeta(ctx, "meta.exclusive", unix.LOCK_EX)
}

func (s *Store) lockMeta(ctx context.Context, name string, how int) (*metaLock, error) {
	l := &metaLock{s: s, name: name}
	err := s.step(name, func() error {
		f, err := openLock(s.path(metaFile))
		if err != nil {
			return err
		}
		if err := waitFlock(ctx, f, how); err != nil {
			return err
		}
		l.file = f
		return nil
	})
	if err != nil {
		if l.file != nil {
			l.file.Close()
		}
		return nil, fmt.Errorf("lock the image store: %w", err)
	}
	return l, nil
}

// release gives the store's lock back. It is called once.
func (l *metaLock) release() { l.file.Close() }

// keyLock is the lock of one piece of work, held.
type keyLock struct {
	file *os.File
	path string
}

// lockKey waits until nobody else does the work. Its file is removed by who
// holds it; who waits for a file that was removed begins anew.
func (s *Store) lockKey(ctx context.Context, key string) (*keyLock, error) {
	l := &keyLock{path: s.path(locksDir, key)}
	err := s.step("lock", func() error {
		for {
			f, err := openLock(l.path)
			if err != nil {
				return err
			}
			if err := waitFlock(ctx, f, unix.LOCK_EX); err != nil {
				return err
			}
			if current(f, l.path) {
				l.file = f
				return nil
			}
			f.Close()
		}
	})
	if err != nil {
		if l.file != nil {
			l.release()
		}
		return nil, fmt.Errorf("lock %s: %w", key, err)
	}
	return l, nil
}

// tryKey is lockKey for a lock that is free; errBusy where it is not.
func (s *Store) tryKey(key string) (*keyLock, error) {
	l := &keyLock{path: s.path(locksDir, key)}
	f, err := openLock(l.path)
	if err != nil {
		return nil, err
	}
	if err := tryFlock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	if !current(f, l.path) {
		f.Close()
		return nil, errBusy
	}
	l.file = f
	return l, nil
}

// release ends the work. A file that cannot be removed is swept up later.
func (l *keyLock) release() {
	os.Remove(l.path)
	l.file.Close()
}

// current reports whether the locked file is still the one at the path.
func current(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}
