package guestimage

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// writeImage makes an image of two small files in a new folder; change may
// alter the manifest before it is written.
func writeImage(t *testing.T, change func(m *Manifest)) string {
	t.Helper()
	dir := t.TempDir()
	file := func(name, text string) File {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		sum, err := digest(path)
		if err != nil {
			t.Fatal(err)
		}
		return File{Name: name, Size: int64(len(text)), SHA256: sum}
	}
	m := &Manifest{
		Version:  ManifestVersion,
		ImageID:  "abc",
		Protocol: api.ProtocolVersion,
		Kernel:   Kernel{File: file("vmlinux", "kernel"), Version: "6.1"},
		Initrd:   file("initrd", "initrd"),
	}
	if change != nil {
		change(m)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, ManifestFile), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestLoad(t *testing.T) {
	dir := writeImage(t, nil)
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.KernelPath(), filepath.Join(dir, "vmlinux"); got != want {
		t.Errorf("KernelPath() = %q, want %q", got, want)
	}
	if got, want := m.InitrdPath(), filepath.Join(dir, "initrd"); got != want {
		t.Errorf("InitrdPath() = %q, want %q", got, want)
	}
	if err := m.Verify(); err != nil {
		t.Errorf("Verify: %v", err)
	}
}

func TestLoadErrors(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *Manifest)
		spoil  func(t *testing.T, dir string)
		is     error
		text   string // after "guest image DIR: "
	}{
		{
			name:  "no folder",
			spoil: func(t *testing.T, dir string) { must(t, os.Rename(dir, dir+"x")) },
			is:    fs.ErrNotExist,
			text:  `"manifest.json": no such file or directory (make guest)`,
		},
		{
			name:  "no kernel",
			spoil: func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "vmlinux"))) },
			is:    fs.ErrNotExist,
			text:  `kernel "vmlinux": no such file or directory (make guest)`,
		},
		{
			name:  "short initrd",
			spoil: func(t *testing.T, dir string) { must(t, os.Truncate(filepath.Join(dir, "initrd"), 2)) },
			is:    ErrMismatch,
			text:  `initrd "initrd": guest image does not match: 2 bytes, want 6 (make guest)`,
		},
		{
			name:   "name leads out of the folder",
			change: func(m *Manifest) { m.Kernel.Name = "../vmlinux" },
			is:     ErrMismatch,
			text:   `kernel "../vmlinux": guest image does not match: not a plain file name (make guest)`,
		},
		{
			name:   "name is the parent",
			change: func(m *Manifest) { m.Initrd.Name = ".." },
			is:     ErrMismatch,
			text:   `initrd "..": guest image does not match: not a plain file name (make guest)`,
		},
		{
			name:   "name is empty",
			change: func(m *Manifest) { m.Initrd.Name = "" },
			is:     ErrMismatch,
			text:   `initrd "": guest image does not match: not a plain file name (make guest)`,
		},
		{
			name:   "other protocol",
			change: func(m *Manifest) { m.Protocol = 99 },
			is:     ErrMismatch,
			text:   `guest image does not match: its agent speaks protocol 99, this runtime 2 (make guest)`,
		},
		{
			name:   "other form",
			change: func(m *Manifest) { m.Version = 2 },
			is:     ErrMismatch,
			text:   `guest image does not match: manifest version 2, want 1 (make guest)`,
		},
		{
			name: "unknown field",
			spoil: func(t *testing.T, dir string) {
				must(t, os.WriteFile(filepath.Join(dir, ManifestFile), []byte(`{"verzion":1}`), 0o644))
			},
			is:   ErrMismatch,
			text: `"manifest.json": guest image does not match: json: unknown field "verzion" (make guest)`,
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			dir := writeImage(t, tc.change)
			if tc.spoil != nil {
				tc.spoil(t, dir)
			}
			_, err := Load(dir)
			if !errors.Is(err, tc.is) {
				t.Fatalf("Load: %v, want %v", err, tc.is)
			}
			if got, want := err.Error(), "guest image "+dir+": "+tc.text; got != want {
				t.Errorf("Load says\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestVerifySeesAlteredFile(t *testing.T) {
	dir := writeImage(t, nil)
	m, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	must(t, os.WriteFile(m.InitrdPath(), []byte("INITRD"), 0o644))
	err = m.Verify()
	if !errors.Is(err, ErrMismatch) || !strings.Contains(err.Error(), `initrd "initrd"`) {
		t.Errorf("Verify: %v, want ErrMismatch about the initrd", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
