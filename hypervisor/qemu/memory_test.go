package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// sparse is a file with data in its middle and at its end, and some written
// zeros.
func sparse(t *testing.T) (path string, content []byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "memory")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	content = make([]byte, 4<<20)
	for i := 1 << 20; i < 1<<20+copyChunk+3*pageSize+1; i++ {
		content[i] = byte(i%250) + 1
	}
	content[len(content)-1] = 7
	if err := f.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	for _, part := range []extent{{1 << 20, 1 << 20}, {4<<20 - 1, 1}} { // zeros after the first data
		if _, err := f.WriteAt(content[part.start:part.start+part.length], part.start); err != nil {
			t.Fatal(err)
		}
	}
	return path, content
}

func TestFill(t *testing.T) {
	path, want := sparse(t)
	m, err := newMemory(path, int64(len(want)))
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(io.NewSectionReader(m.copy, 0, m.size+1))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v: not as in the template", len(got), err)
	}
	if n := data(t, m.copy); n > 2<<20 {
		t.Errorf("%d bytes were copied", n)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.fill(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestMemoryOfOtherSize(t *testing.T) {
	path, want := sparse(t)
	if m, err := newMemory(path, int64(len(want))+1); err == nil {
		m.Close()
		t.Error("no error")
	}
}

func TestPunchZeros(t *testing.T) {
	path, want := sparse(t)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := data(t, f)
	if err := PunchZeros(f); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v: not as before", len(got), err)
	}
	most := int64(copyChunk + 5*pageSize)
	if after := data(t, f); after > most && after == before {
		t.Skipf("SKIPPED: no holes in files of %s", os.TempDir())
	} else if after > most {
		t.Errorf("%d of %d bytes left", after, before)
	}
}

// data counts what is not a hole.
func data(t *testing.T, f *os.File) (n int64) {
	t.Helper()
	info, err := f.Stat()
	if err == nil {
		err = eachExtent(f, info.Size(), func(e extent) error { n += e.length; return nil })
	}
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestDiscard: a clone's memory is the host's again when QEMU ends by itself, and
// whoever else has it open, as a file server has.
func TestDiscard(t *testing.T) {
	m, server := copied(t)
	v, err := begin(testContext(t), fakeConfig(t, ""), m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Kill(); v.channel.Close() })
	if err := v.proc.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wantDiscarded(t, m, server)
}

// TestDiscardEarly: where we end QEMU its memory is given back beside its death. Here
// nobody has waited for its process, which is what its end is known by.
func TestDiscardEarly(t *testing.T) {
	m, server := copied(t)
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	v := &vm{cmd: cmd, memory: m, done: make(chan struct{})}
	if err := v.Terminate(); err != nil {
		t.Fatal(err)
	}
	wantDiscarded(t, m, server)
}

// copied is a clone's memory, and the file that another process has of it.
func copied(t *testing.T) (*guestMemory, *os.File) {
	t.Helper()
	path, want := sparse(t)
	m, err := newMemory(path, int64(len(want)))
	if err == nil {
		err = m.fill(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	m.template.Close()
	fd, err := unix.Dup(int(m.copy.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	server := os.NewFile(uintptr(fd), "file server's")
	t.Cleanup(func() { server.Close() })
	if data(t, server) == 0 {
		t.Fatal("nothing to discard")
	}
	return m, server
}

func wantDiscarded(t *testing.T, m *guestMemory, server *os.File) {
	t.Helper()
	select {
	case <-m.discarded:
	case <-time.After(10 * time.Second):
		t.Fatal("not discarded within 10 s")
	}
	if n := data(t, server); n != 0 {
		t.Errorf("%d bytes are left", n)
	}
}
