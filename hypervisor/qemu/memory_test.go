package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
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

// TestDiscard: a clone's memory is the host's again when QEMU ends, whoever ends it,
// and whoever else has it open, as a file server has.
func TestDiscard(t *testing.T) {
	for name, end := range map[string]func(*vm) error{
		"terminated": (*vm).Terminate,
		"by itself":  func(v *vm) error { return v.proc.Signal(unix.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
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
			defer server.Close()
			cfg := fakeConfig(t, "")
			v, err := begin(testContext(t), cfg, m)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { v.Kill(); v.channel.Close() })
			if data(t, server) == 0 {
				t.Fatal("nothing to discard")
			}
			if err := end(v); err != nil {
				t.Fatal(err)
			}
			select {
			case <-m.discarded:
			case <-time.After(10 * time.Second):
				t.Fatal("not discarded within 10 s")
			}
			if n := data(t, server); n != 0 {
				t.Errorf("%d bytes are left", n)
			}
		})
	}
}
