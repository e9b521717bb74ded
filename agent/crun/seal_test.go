package crun

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The program runs on from memory, nobody can change it, and crun would know.
func TestSeal(t *testing.T) {
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "crun")
	if err := os.WriteFile(path, self, 0o755); err != nil {
		t.Fatal(err)
	}
	r := &Runtime{Path: path}
	if err := r.Seal(); err != nil {
		t.Fatal(err)
	}
	defer r.sealed.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file that takes memory: %v", err)
	}
	if got, err := unix.FcntlInt(r.sealed.Fd(), unix.F_GET_SEALS, 0); err != nil || got != seals {
		t.Errorf("seals %#x, %v; want %#x", got, err, seals)
	}
	if _, err := r.sealed.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write: %v", err)
	}
	out, err := exec.Command(r.Path, "-test.list", "^TestSeal$").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "TestSeal") {
		t.Errorf("run it: %q, %v", out, err)
	}
}

func TestSealNothing(t *testing.T) {
	r := &Runtime{Path: filepath.Join(t.TempDir(), "crun")}
	if err := r.Seal(); !errors.Is(err, os.ErrNotExist) || r.sealed != nil {
		t.Errorf("%v", err)
	}
}
