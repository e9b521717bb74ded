package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestFindPort(t *testing.T) {
	dir := t.TempDir()
	for dev, name := range map[string]string{"vport0p0": "other\n", "vport1p3": "vc.agent\n"} {
		if err := os.Mkdir(filepath.Join(dir, dev), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, dev, "name"), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"vc.agent": "vport1p3", "vc": ""} {
		if got, err := findPort(dir, name); got != want || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := findPort(filepath.Join(dir, "none"), "vc.agent"); got != "" || err != nil {
		t.Errorf("no folder: %q, %v", got, err)
	}
}

func TestReadModules(t *testing.T) {
	path := filepath.Join(t.TempDir(), "modules.json")
	m, err := ReadModules(path)
	if err != nil {
		t.Fatalf("no table: %v", err)
	}
	if err := errors.Join(m.LoadBoot(), m.Load("virtiofs")); err != nil {
		t.Errorf("built in: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"boot":["/a.ko"],"groups":{"virtiofs":["/none/b.ko"]}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	if m, err = ReadModules(path); err != nil || len(m.Boot) != 1 {
		t.Fatalf("got %v, %v", m, err)
	}
	if err := m.Load("virtiofs"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("missing module: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{`), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err = ReadModules(path); err == nil {
		t.Error("broken table was read")
	}
}

func TestUeventWaitEnds(t *testing.T) {
	ev, err := listenUevents()
	if err != nil {
		t.Skipf("NOT RUN: no uevents here: %v", err)
	}
	defer ev.close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil { // the machine may have events of its own
		err = ev.wait(ctx)
	}
	if !errors.Is(err, context.DeadlineExceeded) && err != nil {
		t.Errorf("got %v", err)
	}
}

// TestPortSession: the end of a session ends its reads, not the port.
func TestPortSession(t *testing.T) {
	fds := make([]int, 2)
	if err := syscall.Pipe2(fds, syscall.O_NONBLOCK|syscall.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	r, w := os.NewFile(uintptr(fds[0]), "r"), os.NewFile(uintptr(fds[1]), "w")
	defer r.Close()
	defer w.Close()
	port := &Port{f: r}
	for range 2 {
		s, err := port.Session()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString("x")
		if n, err := s.Read(make([]byte, 8)); n != 1 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
		ended := make(chan error)
		go func() {
			_, err := s.Read(make([]byte, 8))
			ended <- err
		}()
		s.Close()
		if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read after close: %v", err)
		}
	}
}
