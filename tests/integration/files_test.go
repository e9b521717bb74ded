package integration

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// write writes a file into a container's rootfs, from the host.
func write(t testing.TB, c *testenv.Container, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.Bundle.Rootfs, name), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRootfs has a container use its file system in all the ways that there
// are, and looks from the host at what came of it.
func TestRootfs(t *testing.T) {
	e := suite.New(t)
	c := e.Started(nil, testenv.Shell(`set -e
mkdir /tree && probe tree /tree
dd if=/dev/urandom of=/large bs=1M count=100 2>/dev/null
sha256sum /large | cut -d' ' -f1 >/large.sum
rm -rf /home; mkdir /new; mv /etc/group /new/group; echo more >>/etc/passwd`))
	code := c.Wait(exitLimit)
	e.Equal("exit code", code, 0)
	e.Equal("stderr", c.Stderr(), "")
	checkTree(e, filepath.Join(c.Bundle.Rootfs, "tree"))
	in := func(name string) string { return filepath.Join(c.Bundle.Rootfs, name) }
	e.Equal("sum of a large file", sumOf(t, in("large")), strings.TrimSpace(e.Read(in("large.sum"))))
	if _, err := os.Stat(in("home")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a removed folder is there: %v", err)
	}
	e.Equal("a moved file", strings.HasPrefix(e.Read(in("new/group")), "root:"), true)
	e.Equal("an appended file", strings.HasSuffix(e.Read(in("etc/passwd")), "/bin/sh\nmore\n"), true)
	c.Delete()
}

// checkTree checks what `probe tree` made.
func checkTree(e *testenv.Env, dir string) {
	e.Helper()
	stats := make(map[string]unix.Stat_t)
	for _, tt := range []struct {
		name  string
		mode  uint32
		owner uint32
	}{
		{"owned", unix.S_IFREG | 0o640, 1000},
		{"setuid", unix.S_IFREG | 0o4755, 0},
		{"folder", unix.S_IFDIR | 0o1777, 0},
		{"symlink", unix.S_IFLNK | 0o777, 0},
		{"fifo", unix.S_IFIFO | 0o600, 0},
		{"null", unix.S_IFCHR | 0o666, 0},
		{"socket", unix.S_IFSOCK | 0o777, 0},
		{"sparse", unix.S_IFREG | 0o666, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, tt.name), &st); err != nil {
			e.Errorf("%s: %v", tt.name, err)
			continue
		}
		if st.Mode != tt.mode || st.Uid != tt.owner || st.Gid != tt.owner {
			e.Errorf("%s: mode %o, owner %d:%d, expected %o, %d", tt.name, st.Mode, st.Uid, st.Gid, tt.mode, tt.owner)
		}
		stats[tt.name] = st
	}
	e.Equal("device", stats["null"].Rdev, unix.Mkdev(1, 3))
	e.Equal("links", stats["owned"].Nlink, 2)
	e.Equal("hard link's content", e.Read(filepath.Join(dir, "hardlink")), "content\n")
	e.Equal("size of the sparse file", stats["sparse"].Size, 1<<30)
	if blocks := stats["sparse"].Blocks; blocks > 1024 {
		e.Errorf("the sparse file has %d blocks of 512 bytes", blocks)
	}
	e.Equal("mtime", stats["setuid"].Mtim, unix.Timespec{Sec: 1_100_000_000, Nsec: 987654321})
	if to, err := os.Readlink(filepath.Join(dir, "symlink")); err != nil || to != "../anywhere" {
		e.Errorf("symlink: %q, %v", to, err)
	}
	value := make([]byte, 16)
	n, err := unix.Getxattr(filepath.Join(dir, "owned"), "user.colour", value)
	if err != nil || string(value[:n]) != "green" {
		e.Errorf("extended attribute: %q, %v", value[:max(n, 0)], err)
	}
}

func sumOf(t testing.TB, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// TestFileCalls has the system calls that shared file systems tend to lack,
// in the rootfs and in a volume.
func TestFileCalls(t *testing.T) {
	e := suite.New(t)
	volume := e.Path("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	c := e.Started(nil, testenv.Bind(volume, "/volume"))
	for _, dir := range []string{"/", "/volume"} {
		for _, tt := range []struct{ probe, path string }{
			{"mmap", "mapped"}, {"tmpfile", "."}, {"rename", "."}, {"lock", "locked"}, {"unlink", "gone"},
		} {
			t.Run(dir+" "+tt.probe, func(t *testing.T) {
				e := e.With(t)
				res := e.Do("exec", c.ID, "probe", tt.probe, filepath.Join(dir, tt.path))
				if res.Code != 0 {
					t.Error(res)
				}
			})
		}
	}
	e.OK("kill", c.ID, "KILL")
	c.Wait(sluggish)
	for _, path := range []string{filepath.Join(c.Bundle.Rootfs, "mapped"), filepath.Join(volume, "mapped")} {
		if b := e.Read(path); !strings.HasPrefix(b, "first") || !strings.HasPrefix(b[4096:], "second") {
			t.Errorf("%s: what was written through a mapping is lost", path)
		}
	}
	c.Delete()
}
