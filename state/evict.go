package state

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrEvicted is the cause of the end of a context that Lock.Watch gives: the
// container is deleted by force, and whoever holds its lock is to give up.
var ErrEvicted = errors.New("the container is being deleted")

// What a lock's file says: who holds it, and whether somebody wants to delete
// what it protects. The latter is the tombstone of a create that still runs: it
// goes with the file, and is for this holder only.
const (
	holderFormat = "holder %d %d\n"
	evictLine    = "evict\n"
)

// sign writes the holder into the lock's file, and removes what an earlier one
// that was killed has left there. The lock is as good without it: on a full
// disk the holder just cannot be ended by force.
func (l *Lock) sign() {
	self, err := Self()
	if err != nil {
		return
	}
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_TRUNC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, holderFormat, self.Pid, self.StartTime)
}

// Evict asks who holds the lock of a container id to give up: its Watch ends.
// It gives the holder, for force, if that is known; nobody holding the lock is
// no error.
func (s *Store) Evict(id string) (Process, error) {
	if err := ValidateID(id); err != nil {
		return Process{}, err
	}
	p, err := evict(s.path(locksDir, id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Process{}, fmt.Errorf("evict the holder of the lock of container %s: %w", id, err)
	}
	return p, nil
}

func evict(path string) (Process, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Process{}, err
	}
	defer f.Close()
	line, _ := bufio.NewReader(f).ReadString('\n')
	var p Process
	if _, err := fmt.Sscanf(line, holderFormat, &p.Pid, &p.StartTime); err != nil {
		p = Process{} // it has not signed yet
	}
	_, err = f.WriteString(evictLine)
	return p, err
}

// Watch gives a context that ends with ErrEvicted as its cause when somebody
// asks for the lock. Stop is to be called in any case.
func (l *Lock) Watch(ctx context.Context) (watched context.Context, stop func(), err error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, nil, fmt.Errorf("watch the lock: %w", err)
	}
	events := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, l.path, unix.IN_MODIFY); err != nil {
		events.Close()
		return nil, nil, fmt.Errorf("watch the lock: %w", err)
	}
	watched, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() { // until stop closes events
		defer close(done)
		buf := make([]byte, 16*(unsafe.Sizeof(unix.InotifyEvent{})+unix.NAME_MAX+1))
		for {
			// Also before the first event: it may have been asked already.
			if l.evicted() {
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

// evicted reports whether somebody has asked for the lock.
func (l *Lock) evicted() bool {
	b, err := os.ReadFile(l.path)
	return err == nil && bytes.Contains(b, []byte(evictLine))
}
