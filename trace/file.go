package trace

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// opening is what a trace begins with. The format does without the end of the
// array, so that a line can be added at any time (Trace Event Format, "JSON
// Array Format").
const opening = "[\n"

// file is a trace that other processes write at the same time. Each event is
// one write(2) of a whole line at the end of the file, which takes the file's
// lock in the kernel: lines do not mix.
type file struct {
	mu sync.Mutex // guards f
	f  *os.File   // nil once closed
}

// openFile opens a trace for appending, and makes it where it is not there. A
// file that is something else is refused: nothing is added to it.
func openFile(path string) (*file, error) {
	// Without O_NONBLOCK a fifo would be waited for.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	if err := begin(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("trace: %s: %w", path, err)
	}
	return &file{f: f}, nil
}

// begin writes the opening into a new file, and looks for it in an old one.
func begin(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	// Two commands may come to an empty file at once.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	defer unix.Flock(int(f.Fd()), unix.LOCK_UN)
	if info, err = f.Stat(); err != nil {
		return err
	}
	if info.Size() == 0 {
		_, err := f.WriteString(opening)
		return err
	}
	head := make([]byte, len(opening))
	if _, err := f.ReadAt(head, 0); err != nil || string(head) != opening {
		return errors.New("there is something else than a trace in it")
	}
	return nil
}

// write appends an event. A trace that cannot be written must not fail what is
// traced: the event is dropped.
func (t *file) write(e *Event) {
	b, err := json.Marshal(e)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f != nil {
		t.f.Write(append(b, ",\n"...))
	}
}

func (t *file) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.f == nil {
		return nil
	}
	err := t.f.Close()
	t.f = nil
	return err
}

// hostPid is this process's pid as the host's /proc has it: a shim is PID 1 of
// a namespace of its own.
func hostPid() int {
	if link, err := os.Readlink("/proc/self"); err == nil {
		if pid, err := strconv.Atoi(link); err == nil {
			return pid
		}
	}
	return os.Getpid()
}
