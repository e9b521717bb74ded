package compare

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// symlink makes a symlink in the rootfs.
func symlink(name, to string) func(testing.TB, *bundle) {
	return func(t testing.TB, b *bundle) { b.symlink(t, name, to) }
}

func (b *bundle) symlink(t testing.TB, name, to string) {
	t.Helper()
	if err := os.Symlink(to, filepath.Join(b.rootfs, name)); err != nil {
		t.Fatal(err)
	}
}

// folder makes a folder in the rootfs.
func (b *bundle) folder(t testing.TB, name string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(b.rootfs, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *bundle) owned(t testing.TB, path string, id int, mode os.FileMode) string {
	t.Helper()
	if err := os.Chown(path, id, id); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// copyProbe copies the probe: busybox would drop the rights of a file again.
func (b *bundle) copyProbe(t testing.TB, name string, mode uint32) string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(b.rootfs, "bin/probe"))
	if err != nil {
		t.Fatal(err)
	}
	path := b.write(t, filepath.Join(b.rootfs, name), string(program), 0o755)
	if err := unix.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// capable makes a program with a file capability (capabilities(7)): version 2,
// permitted and effective CAP_NET_BIND_SERVICE.
func capable(t testing.TB, b *bundle) {
	t.Helper()
	path := b.copyProbe(t, "capable", 0o755)
	value := []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(path, "security.capability", value, 0); err != nil {
		t.Fatal(err)
	}
}

func jsonOf[T any](t testing.TB, v T) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
