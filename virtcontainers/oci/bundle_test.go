package oci

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writeBundle makes a bundle with an empty rootfs; config may be "" for none.
func writeBundle(t *testing.T, config string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if config != "" {
		if err := os.WriteFile(filepath.Join(dir, configName), []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	goodProcess = `"process":{"args":["sh"],"cwd":"/"}`
	goodRoot    = `"root":{"path":"rootfs"}`
)

// TestLoadErrors has the texts that runc's callers and its test suite
// (tests/integration/spec.bats, create.bats) look for.
func TestLoadErrors(t *testing.T) {
	for _, tt := range []struct{ name, config, want string }{
		{"no file", "", "JSON specification file config.json not found"},
		{"null", "null", "config cannot be null"},
		{"no process", `{}`, "process property must not be empty"},
		{"no cwd", `{"process":{"args":["sh"]}}`, "Cwd property must not be empty"},
		{"relative cwd", `{"process":{"args":["sh"],"cwd":"tmp"}}`, "Cwd must be an absolute path"},
		{"no args", `{"process":{"args":[],"cwd":"/"}}`, "args must not be empty"},
		{"no root", `{` + goodProcess + `}`, "root must be specified"},
		{"no rootfs", `{` + goodProcess + `,"root":{"path":"nope"}}`, "invalid rootfs: stat DIR/nope: no such file or directory"},
		{"rootfs is a file", `{` + goodProcess + `,"root":{"path":"config.json"}}`, "invalid rootfs: DIR/config.json is not a folder"},
		{"syntax", "{\n \"process\": {\"cwd\": x}}", "config.json, line 2, column 21: invalid character 'x' looking for beginning of value"},
		{"truncated", "{\n \"a\": ", "config.json, line 2, column 6: unexpected end of JSON input"},
		{"wrong type", "{\n\"process\": {\"cwd\": 3}}", "config.json, line 2, column 20: json: cannot unmarshal number into Go struct field Process.process.cwd of type string"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := writeBundle(t, tt.config)
			_, err := Load(dir)
			if want := strings.ReplaceAll(tt.want, "DIR", dir); err == nil || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
	if _, err := Load("/nonexistent"); err == nil || err.Error() != "chdir /nonexistent: no such file or directory" {
		t.Errorf("missing bundle: %v", err)
	}
}

// TestLoadOddFiles wants an error at once from what is no plain file of a
// sensible size.
func TestLoadOddFiles(t *testing.T) {
	dir := writeBundle(t, "")
	path := filepath.Join(dir, configName)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("pipe: %v", err)
	}
	os.Remove(path)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxConfig+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(dir); err == nil || !strings.Contains(err.Error(), "more than 16777216 bytes") {
		t.Errorf("huge file: %v", err)
	}
}

func TestLoad(t *testing.T) {
	dir := writeBundle(t, `{"ociVersion":"1.0.2","unknown":{"a":[1]},`+goodProcess+`,"root":{"path":"link","extra":1}}`)
	if err := os.Symlink("rootfs", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	b, err := Load(".")
	if err != nil {
		t.Fatal(err)
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b.Dir != dir || b.Rootfs != filepath.Join(real, "rootfs") || b.Spec.Version != "1.0.2" {
		t.Errorf("got %+v, spec %+v", b, b.Spec)
	}
}

// TestRealFiles looks at the host itself.
func TestRealFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/proc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	s, err := realFiles{}.inspect(filepath.Join(dir, "link"))
	if err != nil || s.path != "/proc" || !s.mode.IsDir() {
		t.Errorf("link to /proc: %+v, %v", s, err)
	}
	if s, err = (realFiles{}).inspect("/dev/null"); err != nil || !s.isDevice() || s.major != 1 || s.minor != 3 {
		t.Errorf("/dev/null: %+v, %v", s, err)
	}
	if d := s.device("/dev/x"); d.Type != "c" || d.Major != 1 || d.Minor != 3 || d.Path != "/dev/x" {
		t.Errorf("device: %+v", d)
	}
	_, err = realFiles{}.inspect(filepath.Join(dir, "missing"))
	if !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), "stat ") {
		t.Errorf("missing: %v", err)
	}
}
