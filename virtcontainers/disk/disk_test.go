package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// loop gives a loop device with 1 MiB.
func loop(t *testing.T) (path string, major, minor uint32) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: needs root for a loop device")
	}
	file := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("NOT RUN: needs a loop device: losetup: %v", err)
	}
	path = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", path).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return path, unix.Major(st.Rdev), unix.Minor(st.Rdev)
}

func TestOpenBlockDeviceExclusively(t *testing.T) {
	path, major, minor := loop(t)
	d := Disk{Major: major, Minor: minor}
	f, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Open(); !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), path) {
		t.Errorf("a second user: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 4096); err != nil {
		t.Errorf("write: %v", err)
	}
	f.Close()
	d.ReadOnly = true
	if f, err = d.Open(); err != nil {
		t.Fatalf("after the first user: %v", err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("wrote to a device that was opened read-only")
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/etc/passwd", link); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		disk Disk
		want string
	}{
		"no such device":  {Disk{Major: 4000, Minor: 1}, "block device 4000:1: the host has none"},
		"image is a link": {Disk{Image: link, ReadOnly: true}, "link"},
		"no such image":   {Disk{Image: filepath.Join(dir, "none")}, "no such file"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := tt.disk.Open()
			if err == nil {
				f.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %q, want %q in it", err, tt.want)
			}
		})
	}
}

// A partition is part of a device that others use.
func TestOpenRefusesPartition(t *testing.T) {
	files, err := filepath.Glob(sysBlock + "/*/partition")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Skip("NOT RUN: this host has no partition")
	}
	var d Disk
	name := filepath.Base(filepath.Dir(files[0]))
	major, minor, _ := strings.Cut(name, ":")
	d.Major, d.Minor = number(t, major), number(t, minor)
	if f, err := d.Open(); err == nil || !strings.Contains(err.Error(), "partition") {
		f.Close()
		t.Errorf("partition %s: %v", name, err)
	}
}

func number(t *testing.T, s string) uint32 {
	t.Helper()
	var n uint32
	for _, c := range s {
		n = n*10 + uint32(c-'0')
	}
	return n
}
