package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// guestMemory is a clone's own copy of a template's memory. It is a memfd because
// file servers (vhost-user) map it too: pages that are copied on write, each
// by its own process, would not do.
type guestMemory struct {
	template *os.File
	copy     *os.File // QEMU and the file servers have it too
	size     int64    // bytes

	once      sync.Once
	discarded chan struct{} // closed when nothing is left of the copy
}

// copyChunk is how much is copied at a time: it stays in the processor's cache
// between read and write. That is as fast as sendfile, and as a copy between
// mappings by two threads.
const copyChunk = 256 << 10

// newMemory makes an empty copy.
func newMemory(path string, size int64) (*guestMemory, error) {
	template, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	info, err := template.Stat()
	if err == nil && info.Size() != size {
		err = fmt.Errorf("%s has %d bytes, the machine %d", path, info.Size(), size)
	}
	if err != nil {
		template.Close()
		return nil, err
	}
	fd, err := unix.MemfdCreate("guest-memory", unix.MFD_CLOEXEC)
	if err != nil {
		template.Close()
		return nil, fmt.Errorf("memfd: %w", err)
	}
	m := &guestMemory{
		template: template, copy: os.NewFile(uintptr(fd), "guest-memory"), size: size,
		discarded: make(chan struct{}),
	}
	if err := m.copy.Truncate(size); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// Close closes the files, where no QEMU has come to use them.
func (m *guestMemory) Close() {
	m.template.Close()
	m.copy.Close()
}

// discard gives the copy back to the host, in the background, when QEMU has a
// SIGKILL pending or has ended. That takes longer than all else at a machine's end
// (20 ms for 64 MiB), and otherwise whoever closes the copy last would do it, the
// file server or QEMU, whose ends others wait for. A nil guestMemory has none.
func (m *guestMemory) discard() {
	if m == nil {
		return
	}
	m.once.Do(func() {
		go func() { // ends by itself
			defer close(m.discarded)
			m.copy.Truncate(0) // one that fails leaves the work to who closes it last
			m.copy.Close()
		}()
	})
}

// fill copies what the template has that is not a hole, 3 GB/s or so. A second
// thread would not help: writes to a file take turns.
func (m *guestMemory) fill(ctx context.Context) error {
	buf := make([]byte, copyChunk)
	err := eachExtent(m.template, m.size, func(e extent) error {
		for at, end := e.start, e.start+e.length; at < end; at += copyChunk {
			if err := ctx.Err(); err != nil {
				return err
			}
			b := buf[:min(end-at, copyChunk)]
			if _, err := m.template.ReadAt(b, at); err != nil {
				return err
			}
			if _, err := m.copy.WriteAt(b, at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("copy the template's memory: %w", err)
	}
	return nil
}

// extent is a range of a file, in bytes.
type extent struct{ start, length int64 }

// eachExtent calls do for the parts of a file that are not holes, in order.
func eachExtent(f *os.File, size int64, do func(extent) error) error {
	for at := int64(0); at < size; {
		start, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // no more data
			return nil
		}
		if err != nil {
			return err
		}
		end, err := f.Seek(start, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		end = min(end, size)
		if end <= start {
			return nil
		}
		if err := do(extent{start, end - start}); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// PunchZeros makes holes of a memory file's zeros, so that clones do not copy
// them. Where the file system has no holes the file stays as it is.
func PunchZeros(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var full []extent // a hole in the file would move the ends of extents
	err = eachExtent(f, info.Size(), func(e extent) error { full = append(full, e); return nil })
	if err != nil {
		return fmt.Errorf("punch holes: %w", err)
	}
	buf := make([]byte, copyChunk)
	for _, e := range full {
		for at, end := e.start, e.start+e.length; at < end; at += copyChunk {
			b := buf[:min(end-at, copyChunk)]
			if _, err := f.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
				return fmt.Errorf("punch holes: %w", err)
			}
			if err := punch(f, b, at); errors.Is(err, unix.EOPNOTSUPP) {
				return nil
			} else if err != nil {
				return fmt.Errorf("punch holes: %w", err)
			}
		}
	}
	return nil
}

// pageSize is the unit in which the guest's kernel clears memory.
const pageSize = 4096

// punch makes holes of the zero pages of b, which is in the file at start.
func punch(f *os.File, b []byte, start int64) error {
	zeros := make([]byte, pageSize)
	for at := 0; at < len(b); {
		end := at
		for end < len(b) {
			page := b[end:min(end+pageSize, len(b))]
			if !bytes.Equal(page, zeros[:len(page)]) {
				break
			}
			end += len(page)
		}
		if end > at {
			mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
			if err := unix.Fallocate(int(f.Fd()), mode, start+int64(at), int64(end-at)); err != nil {
				return err
			}
		}
		at = end + pageSize
	}
	return nil
}
