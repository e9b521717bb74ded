package compare

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// rootfsFiles describes what a container has changed in its rootfs: upper is
// the overlay's upper layer, merged the rootfs and base what it was before.
func rootfsFiles(upper, merged, base string) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(upper, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(upper, path)
		if err != nil {
			return err
		}
		before, err := describe(filepath.Join(base, name))
		if err != nil {
			return err
		}
		after, err := describe(filepath.Join(merged, name))
		if err != nil {
			return err
		}
		if after != before { // a copy-up alone is no change
			lines = append(lines, "rootfs/"+name+": "+after)
		}
		return nil
	})
	return lines, err
}

// volumeFiles describes every file of a folder.
func volumeFiles(dir, prefix string) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		what, err := describe(path)
		lines = append(lines, prefix+name+": "+what)
		return err
	})
	return lines, err
}

// describe gives all of a file that does not depend on when it was made.
func describe(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); errors.Is(err, unix.ENOENT) {
		return "gone", nil
	} else if err != nil {
		return "", &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	kind := kinds[st.Mode&unix.S_IFMT]
	text := fmt.Sprintf("%s %04o %d:%d", kind, st.Mode&0o7777, st.Uid, st.Gid)
	switch kind {
	case "file":
		sum, err := hash(path)
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(" %d bytes %s", st.Size, sum)
	case "symlink":
		to, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		text += " to " + to
	case "char", "block":
		text += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	attrs, err := xattrs(path)
	return text + attrs, err
}

var kinds = map[uint32]string{
	unix.S_IFREG: "file", unix.S_IFDIR: "folder", unix.S_IFLNK: "symlink", unix.S_IFIFO: "pipe",
	unix.S_IFSOCK: "socket", unix.S_IFCHR: "char", unix.S_IFBLK: "block",
}

func hash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil)[:8]), nil
}

// xattrs gives the extended attributes, but for the overlay's own.
func xattrs(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	var text strings.Builder
	for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if len(name) == 0 || bytes.HasPrefix(name, []byte("trusted.overlay.")) {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, string(name), value)
		if err != nil {
			return "", &fs.PathError{Op: "getxattr " + string(name), Path: path, Err: err}
		}
		fmt.Fprintf(&text, " %s=%q", name, value[:n])
	}
	return text.String(), nil
}
