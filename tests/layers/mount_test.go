package layers

import (
	"crypto/sha256"
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

// mounted mounts an image read-only on a folder of its own in a mount
// namespace of its own, runs f on the thread that is in there, and unmounts.
func mounted(t testing.TB, image string, f func(dir string) error) {
	t.Helper()
	dir := t.TempDir()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		done <- inNamespace(image, dir, f)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func inNamespace(image, dir string, f func(string) error) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	dev, err := loopDevice(image)
	if err != nil {
		return err
	}
	err = unix.Mount(dev.Name(), dir, "erofs", unix.MS_RDONLY, "")
	dev.Close() // the mount holds it now; with the last user it goes
	if err != nil {
		return fmt.Errorf("mount %s: %w", image, err)
	}
	defer func() {
		if e := unix.Unmount(dir, 0); e != nil && err == nil {
			err = fmt.Errorf("unmount: %w", e)
		}
	}()
	return f(dir)
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

// listing describes everything below dir, a line for each path: what a layer
// determines of it. Hard links show as the first path of the inode.
func listing(dir string) ([]string, error) {
	var lines []string
	first := make(map[uint64]string)
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		line, err := describe(path, rel, first)
		lines = append(lines, line)
		return err
	})
	sort.Strings(lines)
	return lines, err
}

// sum stands for the data of a file.
func sum(data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%d %x", len(data), sum[:6])
}

func describe(path, rel string, first map[uint64]string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	line := fmt.Sprintf("%q %o %d:%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFREG:
		data, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		line += " " + sum(data)
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
		if name, ok := first[st.Ino]; ok {
			line += fmt.Sprintf(" = %q", name)
		} else {
			first[st.Ino] = rel
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
		if name == "" {
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
