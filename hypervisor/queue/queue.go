// Package queue bounds how many virtual machines of a host start at the same
// time, in the order in which they came. It is for monitors, which know nothing
// of each other but a folder.
//
// Each place is a file in the folder, locked (flock(2)) by who has it. Who waits
// for one has a file as well, its ticket; the names of the tickets are in their
// order. The first of those who wait tries the places; each other one waits for
// the one before it. All of these files are FIFOs, since a FIFO tells its
// writers at once when its last reader has gone, however that ended: nobody
// needs to look again and again, and nothing has to be cleaned up for who was
// killed.
package queue

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Queue is a folder with places. It holds nothing open.
type Queue struct {
	dir      string
	places   int
	patience time.Duration
}

// Open gives the queue in a folder, which it makes, with so many places.
//
// Who is stopped (SIGSTOP) keeps its place, or its ticket: those behind it go
// past it when nothing has moved for as long as patience.
func Open(dir string, places int, patience time.Duration) (*Queue, error) {
	if places < 1 {
		return nil, fmt.Errorf("queue %s: %d places: expected at least 1", dir, places)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	return &Queue{dir: dir, places: places, patience: patience}, nil
}

// ErrStill is what EnterLast gives where those before it do not move.
var ErrStill = errors.New("wait for a place among the starting machines: nothing moves there")

// Place is a place in use. It goes with the process that has it.
type Place struct {
	file *os.File // nil for who went past the others
}

// Taken reports whether it is one of the queue's places: it is not where
// nothing has moved for too long.
func (p *Place) Taken() bool { return p.file != nil }

// Close gives the place to the next one. A nil Place can be closed, and one
// more than once.
func (p *Place) Close() error {
	if p == nil || p.file == nil {
		return nil
	}
	if err := p.file.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fmt.Errorf("queue: %w", err)
	}
	return nil
}

const (
	placePrefix  = "place-"
	ticketPrefix = "ticket-"
	lastPrefix   = ticketPrefix + "last-" // sorts behind the others, which go on with a digit
	freshPrefix  = "fresh-"               // a ticket that is not locked yet, and in nobody's way
)

// Enter waits for a place, until ctx ends.
func (q *Queue) Enter(ctx context.Context) (*Place, error) { return q.enter(ctx, ticketPrefix) }

// EnterLast is Enter for who can do without: everybody else goes before, also
// those who come later. Such have one place at most between them, and go past
// nobody: they get ErrStill when nothing has moved for as long as patience.
func (q *Queue) EnterLast(ctx context.Context) (*Place, error) { return q.enter(ctx, lastPrefix) }

func (q *Queue) enter(ctx context.Context, prefix string) (*Place, error) {
	last := prefix == lastPrefix
	places := q.places
	if last {
		places = 1
	}
	ticket, err := q.draw(prefix)
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	defer ticket.end()
	passed := make(map[string]bool) // tickets that did not move
	for {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("wait for a place among the starting machines: %w", context.Cause(ctx))
		}
		before, err := q.before(ticket, passed)
		if err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		if before != "" {
			if q.wait(ctx, before) {
				if last {
					return nil, ErrStill
				}
				passed[before] = true
			}
			continue
		}
		var held []string
		for i := places - 1; i >= 0; i-- { // that of EnterLast when there is no other
			path := filepath.Join(q.dir, placePrefix+strconv.Itoa(i))
			f, err := lockFIFO(path)
			if err == nil {
				return &Place{f}, nil
			}
			if !errors.Is(err, errHeld) {
				return nil, fmt.Errorf("queue: %w", err)
			}
			held = append(held, path)
		}
		if q.wait(ctx, held...) {
			if last {
				return nil, ErrStill
			}
			return &Place{}, nil
		}
	}
}

// ticket is the file of one who waits.
type ticket struct {
	path string
	file *os.File
}

// end removes the ticket, and so tells the next one.
func (t *ticket) end() {
	os.Remove(t.path) // while it is locked: whoever finds it free removes it
	t.file.Close()
}

// draw makes a ticket that comes after all others with the prefix. It gets its
// name when it is locked: without the lock it would be taken for one of the
// dead, and its owner lose its turn.
func (q *Queue) draw(prefix string) (*ticket, error) {
	for {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			return nil, fmt.Errorf("read the clock: %w", err)
		}
		name := fmt.Sprintf("%020d-%d", now.Nano(), os.Getpid())
		path, final := filepath.Join(q.dir, freshPrefix+name), filepath.Join(q.dir, prefix+name)
		if err := unix.Mkfifo(path, 0o600); errors.Is(err, unix.EEXIST) {
			continue // another goroutine's, at the same time
		} else if err != nil {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
		f, err := lockFIFO(path)
		if err == nil {
			if err := os.Rename(path, final); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return &ticket{final, f}, nil
		}
		// Somebody has taken it, which nobody had locked yet, for one of the dead,
		// and is about to remove it.
		if !errors.Is(err, errHeld) && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// before gives the path of the last ticket before one, nothing where it is the
// first. It removes those of the dead.
func (q *Queue) before(t *ticket, passed map[string]bool) (string, error) {
	entries, err := os.ReadDir(q.dir) // by name
	if err != nil {
		return "", err
	}
	for _, e := range slices.Backward(entries) {
		path := filepath.Join(q.dir, e.Name())
		fresh := strings.HasPrefix(e.Name(), freshPrefix)
		if !fresh && (!strings.HasPrefix(e.Name(), ticketPrefix) || path >= t.path || passed[path]) {
			continue
		}
		f, err := lockFIFO(path)
		switch {
		case errors.Is(err, errHeld) && !fresh:
			return path, nil
		case errors.Is(err, errHeld): // has a name in a moment
			continue
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", err
		}
		dead := &ticket{path, f}
		dead.end()
	}
	return "", nil
}

// errHeld is that somebody else has locked the file.
var errHeld = errors.New("held")

// lockFIFO opens a FIFO for reading and locks it, where nobody has. A place is
// made where it is missing.
func lockFIFO(path string) (*os.File, error) {
	if strings.HasPrefix(filepath.Base(path), placePrefix) {
		if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
		}
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		err = errHeld
	case err == nil: // it may have been removed meanwhile
		var mine, there unix.Stat_t
		if err = errors.Join(unix.Fstat(fd, &mine), unix.Lstat(path, &there)); err == nil && mine.Ino != there.Ino {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// wait waits until one of the files has no reader any more, or ctx ends. It
// reports whether nothing has happened for as long as the patience goes.
func (q *Queue) wait(ctx context.Context, paths ...string) (still bool) {
	limited, cancel := context.WithTimeout(ctx, q.patience)
	defer cancel()
	var wake [2]int
	if unix.Pipe2(wake[:], unix.O_CLOEXEC) != nil {
		return true
	}
	defer unix.Close(wake[0])
	closed := make(chan struct{})
	stop := context.AfterFunc(limited, func() { unix.Close(wake[1]); close(closed) })
	defer func() {
		if stop() {
			unix.Close(wake[1])
		} else {
			<-closed
		}
	}()
	fds := []unix.PollFd{{Fd: int32(wake[0])}}
	for _, path := range paths {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return false // nobody reads it any more (ENXIO), or it has gone
		}
		defer unix.Close(fd)
		// No event is asked for: the end of the last reader is always told.
		fds = append(fds, unix.PollFd{Fd: int32(fd)})
	}
	for {
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		ended := slices.ContainsFunc(fds[1:], func(p unix.PollFd) bool { return p.Revents != 0 })
		return !ended && ctx.Err() == nil
	}
}
