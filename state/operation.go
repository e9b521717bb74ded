package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

// Operation is what is under way with a container id: its create, start, pause,
// resume, update or delete, or the removal of what one of these has left. There
// is one at a time, for each id, from its first step to its last. So it may last
// as long as a guest takes to answer, which no lock may: who meets it looks
// whether the answer is certain without it, waits for it, within limits of his
// own, or has it end (Evict). It dies with its process, and is not reentrant.
type Operation struct{ file *lockFile }

// ErrEvicted is the cause of the end of a context that Operation.Watch gives: the
// container is deleted by force, and whoever is at work on it is to give up.
var ErrEvicted = errors.New("the container is being deleted")

// UnderWay describes an operation to those who meet it. It is the zero UnderWay
// where that is not known: there is none, or it could not be written down.
type UnderWay struct {
	Op      lifecycle.Op
	Process Process
}

// String is for error texts.
func (u UnderWay) String() string {
	if u.Process.Pid == 0 {
		return "an operation"
	}
	return fmt.Sprintf("its %s (pid %d)", u.Op, u.Process.Pid)
}

// Begin begins an operation, when what is under way with the id has ended. If
// ctx ends first the error says what that is.
func (s *Store) Begin(ctx context.Context, id string, op lifecycle.Op) (*Operation, error) {
	f, err := s.take(operationsDir, id, string(op), func(f *lockFile) error { return f.wait(ctx) })
	if errors.Is(err, errHeld) {
		return nil, fmt.Errorf("container %s: %s is still under way: %w", id, s.UnderWay(id), context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("%s container %s: %w", op, id, err)
	}
	return &Operation{f}, nil
}

// TryBegin is Begin without waiting. It gives nil where another operation is
// under way.
func (s *Store) TryBegin(id string, op lifecycle.Op) (*Operation, error) {
	f, err := s.take(operationsDir, id, string(op), (*lockFile).try)
	if errors.Is(err, errHeld) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s container %s: %w", op, id, err)
	}
	return &Operation{f}, nil
}

// End ends the operation: the next one begins. Only the first call does
// something; all give its error.
func (o *Operation) End() error { return o.file.close() }

// UnderWay tells which operation is under way with an id. It gets in nobody's
// way.
func (s *Store) UnderWay(id string) UnderWay {
	if ValidateID(id) != nil {
		return UnderWay{}
	}
	what, p := s.holder(operationsDir, id)
	return UnderWay{lifecycle.Op(what), p}
}

// evictLine is the tombstone in the file of an operation: somebody wants to
// delete what it works on. It goes with the file, and is for this operation only.
const evictLine = "evict\n"

// Evict asks the operation that is under way with an id to give up: its Watch
// ends. It tells which that is, for force, if that is known; none being under way
// is no error.
func (s *Store) Evict(id string) (UnderWay, error) {
	if err := ValidateID(id); err != nil {
		return UnderWay{}, err
	}
	u, err := evict(s.path(operationsDir, id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return UnderWay{}, fmt.Errorf("evict the operation of container %s: %w", id, err)
	}
	return u, nil
}

func evict(path string) (UnderWay, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return UnderWay{}, err
	}
	defer f.Close()
	what, p := signedBy(f)
	_, err = f.WriteString(evictLine)
	return UnderWay{lifecycle.Op(what), p}, err
}

// Watch gives a context that ends with ErrEvicted as its cause when the operation
// is to give up. Stop is to be called in any case.
func (o *Operation) Watch(ctx context.Context) (watched context.Context, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch the operation: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, o.file.path, unix.IN_MODIFY); err != nil {
		events.Close()
		return nil, nil, fmt.Errorf("watch the operation: %w", err)
	}
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() { // until stop closes events
		defer close(done)
		buf := make([]byte, 16*(unsafe.Sizeof(unix.InotifyEvent{})+unix.NAME_MAX+1))
		for {
			// Also before the first event: it may have been asked already.
			if o.evicted() {
				cancel(ErrEvicted)
				return
			}
			if _, err := events.Read(buf); err != nil {
				return
			}
		}
	}()
	return watched, func() {
		events.Close()
		<-done
		cancel(nil)
	}, nil
}

// evicted reports whether somebody has asked the operation to give up.
func (o *Operation) evicted() bool {
	b, err := os.ReadFile(o.file.path)
	return err == nil && bytes.Contains(b, []byte(evictLine))
}

// formerDir is where versions before had the files of operations. What such a
// version still has under way there is left to it: the records of the containers
// keep others from what it works on.
const formerDir = "locks"

// RemoveFormer removes what a version before has left where it had the files of
// operations. There being nothing, as nearly always, is seen at once.
func (s *Store) RemoveFormer() error {
	dir, err := s.open(formerDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		l := &lockFile{path: filepath.Join(dir.Name(), name)}
		l.file = flock.New(l.path, flock.SetFlag(os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK))
		if l.try() == nil {
			l.giveBack()
		}
	}
	if err := os.Remove(dir.Name()); err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
