package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/filelock"
)

// SparesLock is the lock of whoever starts or ends spares, a flock(2) of a file
// beside their folders. Nobody waits for a guest while it is held.
//
// It goes with the file: OpenSpares gives the right to start spares, which who
// ends all of them takes away with Remove.
type SparesLock struct {
	file *os.File
	path string
}

// OpenSpares opens the file of the lock, which it makes where it is missing.
func (s *Store) OpenSpares() (*os.File, error) {
	for {
		dir, err := s.makeKind(sparesDir)
		if err != nil {
			return nil, fmt.Errorf("open the spares: %w", err)
		}
		f, err := openBeneath(dir, sparesLock, unix.O_RDONLY|unix.O_CREAT)
		dir.Close()
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) { // the folder was removed meanwhile
			return nil, fmt.Errorf("open the spares: %w", err)
		}
	}
}

// LockSpares waits for the lock, until ctx ends.
func (s *Store) LockSpares(ctx context.Context) (*SparesLock, error) {
	for {
		f, err := s.OpenSpares()
		if err != nil {
			return nil, err
		}
		l, err := s.LockOpenSpares(ctx, f)
		if !errors.Is(err, ErrNotExist) {
			return l, err
		}
	}
}

// LockOpenSpares is LockSpares for who has opened the file, which goes with the
// lock. ErrNotExist says that all spares have been ended since.
func (s *Store) LockOpenSpares(ctx context.Context, f *os.File) (*SparesLock, error) {
	err := filelock.Flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = filelock.Wait(ctx, func() error { return filelock.Flock(f, unix.LOCK_EX) }, func() { f.Close() })
		if err != nil && ctx.Err() != nil { // the file is closed when the wait in the kernel ends
			return nil, fmt.Errorf("lock the spares: %w", err)
		}
	}
	return s.lockedSpares(f, err)
}

// TryLockSpares takes the lock where nobody has it, and gives nil otherwise.
func (s *Store) TryLockSpares() (*SparesLock, error) {
	f, err := s.OpenSpares()
	if err != nil {
		return nil, err
	}
	l, err := s.lockedSpares(f, filelock.Flock(f, unix.LOCK_EX|unix.LOCK_NB))
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, ErrNotExist) {
		return nil, nil
	}
	return l, err
}

// lockedSpares gives the lock where its file was locked without an error, and is
// still that of the lock. It closes the file otherwise.
func (s *Store) lockedSpares(f *os.File, err error) (*SparesLock, error) {
	l := &SparesLock{f, s.path(sparesDir, sparesLock)}
	if err == nil {
		err = l.current()
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock the spares: %w", err)
	}
	failpoint.Trace("take", sparesDir)
	return l, nil
}

func (l *SparesLock) current() error {
	mine, err := l.file.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(l.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !os.SameFile(mine, there) {
		return ErrNotExist
	}
	return err
}

// Close gives the lock to the next one who waits.
func (l *SparesLock) Close() error {
	failpoint.Trace("release", sparesDir)
	return l.file.Close()
}

// Remove removes the file: who has opened it starts no spare any more. With it
// goes the folder of the spares, where there are none and nobody has come.
func (l *SparesLock) Remove() error {
	dir := filepath.Dir(l.path)
	paths, err := filepath.Glob(filepath.Join(dir, spareFailure+"*")) // a writer may have been killed
	if err != nil {
		return fmt.Errorf("remove the spares' lock: %w", err)
	}
	for _, path := range append(paths, filepath.Join(dir, sparesLog), l.path, dir) {
		err := os.Remove(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove the spares' lock: %w", err)
		}
	}
	return nil
}
