package state

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSandboxRoundTrip(t *testing.T) {
	s := openStore(t)
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Sandbox("p1")
	if !errors.Is(err, ErrNotExist) || err.Error() != "sandbox p1 does not exist" {
		t.Fatalf("%v, want ErrNotExist", err)
	}
	want := &Sandbox{ID: "p1", Monitor: self, Created: time.Now().UTC().Round(0)}
	if err := s.SaveSandbox(want); err != nil {
		t.Fatal(err)
	}
	want.VM = self
	if err := s.SaveSandbox(want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Sandbox("p1")
	if err != nil {
		t.Fatal(err)
	}
	want.Version = sandboxVersion
	if want.BootID, err = BootID(); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want.BootID = "earlier"
	if err := s.SaveSandbox(want); err != nil {
		t.Fatal(err)
	}
	if got, err = s.Sandbox("p1"); err != nil || got.Monitor.Alive() || got.VM.Alive() {
		t.Errorf("the processes of an earlier boot: %+v, %v", got, err)
	}
}

func TestSandboxes(t *testing.T) {
	s := openStore(t)
	if got, err := s.Sandboxes(); err != nil || got != nil {
		t.Errorf("of no store: %v, %v", got, err)
	}
	for _, id := range []string{"b", "a"} {
		dir, err := s.MakeSandboxDir(id)
		if err != nil || dir != s.SandboxDir(id) {
			t.Fatalf("%s, %v", dir, err)
		}
		if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%v, %v", st, err)
		}
	}
	if _, err := s.MakeSandboxDir("a"); err != nil {
		t.Errorf("again: %v", err)
	}
	must(t, os.WriteFile(s.path(sandboxesDir, "file"), nil, 0o600))
	must(t, os.Mkdir(s.path(sandboxesDir, "no id"), 0o700))
	if got, err := s.Sandboxes(); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%v, %v", got, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSandboxInvalidID(t *testing.T) {
	s := openStore(t)
	for _, id := range []string{"", "..", "a/b"} {
		if got := s.SandboxDir(id); filepath.Dir(got) != s.path(sandboxesDir) || ValidateID(filepath.Base(got)) == nil {
			t.Errorf("folder of %q: %s", id, got)
		}
		_, err1 := s.MakeSandboxDir(id)
		_, err2 := s.Sandbox(id)
		_, err3 := s.HoldSandbox(id)
		_, err4 := s.SandboxHeld(id)
		for i, err := range []error{err1, err2, err3, err4, s.RemoveSandbox(id), s.SaveSandbox(&Sandbox{ID: id})} {
			if !errors.Is(err, ErrInvalidID) {
				t.Errorf("%q, call %d: %v, want ErrInvalidID", id, i, err)
			}
		}
	}
}

func TestRemoveSandbox(t *testing.T) {
	s := openStore(t)
	must(t, s.RemoveSandbox("p1"))
	if _, err := os.Stat(s.Root()); !os.IsNotExist(err) {
		t.Fatalf("removing nothing made the root: %v", err)
	}
	must(t, s.SaveSandbox(&Sandbox{ID: "p1"}))
	dir := s.SandboxDir("p1")
	for _, name := range []string{"monitor.log", "sandbox.json.abc.tmp"} {
		must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	for _, name := range []string{"monitor.sock", "share-c1.sock"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
		must(t, err)
		l.SetUnlinkOnClose(false)
		l.Close()
	}
	held, err := s.HoldSandbox("p1")
	must(t, err)
	if err := s.RemoveSandbox("p1"); !errors.Is(err, ErrHeld) {
		t.Errorf("of a living monitor: %v, want ErrHeld", err)
	}
	must(t, held.Close())

	foreign := filepath.Join(dir, "mine.txt")
	must(t, os.WriteFile(foreign, nil, 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "sub.sock"), 0o700))
	if err := s.RemoveSandbox("p1"); err == nil || !strings.Contains(err.Error(), "mine.txt, sub.sock") {
		t.Errorf("%v, want the foreign files' names", err)
	}
	if _, err := s.Sandbox("p1"); err != nil {
		t.Errorf("the record did not stay: %v", err)
	}
	must(t, errors.Join(os.Remove(foreign), os.Remove(filepath.Join(dir, "sub.sock"))))
	must(t, s.RemoveSandbox("p1"))
	wantEmpty(t, s.path(sandboxesDir))
	must(t, s.RemoveSandbox("p1"))
}

// playMonitor holds a sandbox.
func playMonitor(args []string) int {
	s, err := Open(args[0])
	if err == nil {
		_, err = s.HoldSandbox(args[1])
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return untilEOF()
}

func TestHoldSandbox(t *testing.T) {
	s := openStore(t)
	held := func() bool {
		t.Helper()
		ok, err := s.SandboxHeld("p1")
		must(t, err)
		return ok
	}
	if held() {
		t.Error("held without a folder")
	}
	if _, err := s.HoldSandbox("p1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("hold without a folder: %v", err)
	}
	_, err := s.MakeSandboxDir("p1")
	must(t, err)
	if held() {
		t.Error("held from the beginning")
	}
	c := startChild(t, nil, "monitor", s.Root(), "p1")
	if got := c.line(t); got != "ready" {
		t.Fatal(got)
	}
	if !held() {
		t.Error("not held by the other process")
	}
	if _, err := s.HoldSandbox("p1"); !errors.Is(err, ErrHeld) {
		t.Errorf("held twice: %v", err)
	}
	p := find(t, c.Process.Pid)
	must(t, p.Kill(soon(t)))
	if held() {
		t.Error("held by a dead process")
	}
	own, err := s.HoldSandbox("p1")
	must(t, err)
	if !held() {
		t.Error("not seen within the holder's process")
	}
	must(t, own.Close())
	if held() {
		t.Error("held after the end")
	}
}

// A probe at the wrong moment must not keep a monitor from its lock.
func TestSandboxProbeDoesNotDisturb(t *testing.T) {
	s := openStore(t)
	_, err := s.MakeSandboxDir("p1")
	must(t, err)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := s.SandboxHeld("p1"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 300 {
		own, err := s.HoldSandbox("p1")
		if err != nil {
			t.Error(err)
			break
		}
		own.Close()
	}
	close(stop)
	wg.Wait()
}
