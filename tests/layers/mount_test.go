package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: mounting needs root")
	}
}

// tool returns the path of a program that the test group of hack/deps has.
func tool(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: run `hack/deps test`", err)
	}
	return p
}

// mounted mounts images read-only, each on a folder of its own, in a mount
// namespace of their own, runs f on the thread that is in there, and unmounts.
func mounted(t testing.TB, images []string, f func(dirs []string) error) {
	t.Helper()
	var dirs []string
	for range images {
		dirs = append(dirs, t.TempDir())
	}
	inNamespace(t, func() error { return withMounts(images, dirs, func() error { return f(dirs) }) })
}

// inNamespace runs f in a mount namespace of its own.
func inNamespace(t testing.TB, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// withMounts mounts the first image, and those after it within.
func withMounts(images, dirs []string, f func() error) error {
	if len(images) == 0 {
		return f()
	}
	dev, err := loopDevice(images[0])
	if err != nil {
		return err
	}
	err = unix.Mount(dev.Name(), dirs[0], "erofs", unix.MS_RDONLY, "")
	dev.Close() // the mount holds it now; with the last user it goes
	if err != nil {
		return fmt.Errorf("mount %s: %w", images[0], err)
	}
	err = withMounts(images[1:], dirs[1:], f)
	return errors.Join(err, unix.Unmount(dirs[0], 0))
}

// loopDevice attaches the file to a free loop device that detaches itself.
func loopDevice(file string) (*os.File, error) {
	backing, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer backing.Close()
	ctl, err := os.Open("/dev/loop-control")
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	for {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a loop device: %w", err)
		}
		name := fmt.Sprintf("/dev/loop%d", n)
		if err := unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(n)))); err != nil && err != unix.EEXIST {
			return nil, fmt.Errorf("make %s: %w", name, err)
		}
		dev, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		cfg := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		if err = unix.IoctlLoopConfigure(int(dev.Fd()), &cfg); err == nil {
			return dev, nil
		}
		dev.Close()
		if err != unix.EBUSY { // somebody else was faster
			return nil, fmt.Errorf("configure %s: %w", name, err)
		}
	}
}

// listing is layertest.Listing of a folder.
func listing(dir string) ([]string, error) {
	var lines []string
	first := make(map[inode]string)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line, err := describe(path, rel, first)
		lines = append(lines, line)
		return err
	})
	return lines, err
}

// inode is one of any file system.
type inode struct{ dev, ino uint64 }

func describe(path, rel string, first map[inode]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	line := fmt.Sprintf("%q %o %d:%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		sum, err := layertest.Sum(st.Size, f)
		if err != nil {
			return "", err
		}
		line += " " + sum
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		line += fmt.Sprintf(" -> %q", target)
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		key := inode{st.Dev, st.Ino}
		if name, ok := first[key]; ok {
			line += fmt.Sprintf(" = %q", name)
		} else {
			first[key] = rel
		}
		line += fmt.Sprintf(" links %d", st.Nlink)
	}
	xattrs, err := xattrsOf(path)
	return line + xattrs, err
}

func xattrsOf(path string) (string, error) {
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, list)
	if err != nil {
		return "", fmt.Errorf("list xattrs of %s: %w", path, err)
	}
	names := strings.Split(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00")
	sort.Strings(names)
	line := ""
	for _, name := range names {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("xattr %s of %s: %w", name, path, err)
		}
		line += fmt.Sprintf(" %s=%x", name, value[:n])
	}
	return line, nil
}
