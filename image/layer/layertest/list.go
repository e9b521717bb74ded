package layertest

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

// Sum stands for the data of a file in a listing.
func Sum(size int64, data io.Reader) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, data); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d %x", size, h.Sum(nil)[:6]), nil
}

// Listing lists all that an image has, a line for each path, in the order of
// the paths: type and mode, owner, time, what it is, hard links by the first
// path that has the inode, and extended attributes.
func Listing(m *erofs.Image) ([]string, error) {
	return walk(m, func(path string, i erofs.Info, first string) (string, error) {
		line := fmt.Sprintf("%q %o %d:%d %d.%09d", path, i.Type|i.Mode, i.UID, i.GID, i.Sec, i.Nsec)
		switch i.Type {
		case unix.S_IFREG:
			sum, err := Sum(i.Size, m.Data(i))
			if err != nil {
				return "", err
			}
			line += " " + sum
		case unix.S_IFLNK:
			target, err := m.Readlink(i)
			if err != nil {
				return "", err
			}
			line += fmt.Sprintf(" -> %q", target)
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d,%d", i.Major, i.Minor)
		}
		if first != "" {
			line += fmt.Sprintf(" = %q", first)
		}
		if i.Type != unix.S_IFDIR {
			line += fmt.Sprintf(" links %d", i.Links)
		}
		slices.SortFunc(i.Xattrs, func(a, b erofs.Xattr) int { return cmp.Compare(a.Name, b.Name) })
		for _, x := range i.Xattrs {
			line += fmt.Sprintf(" %s=%x", x.Name, x.Value)
		}
		return line, nil
	})
}

// Brief is Listing with as little as possible: "a/", "a/file data",
// "link -> target", "hard = file", "c 1,3", "gone whiteout", "b/ opaque". The
// root has a line only if it is opaque.
func Brief(m *erofs.Image) ([]string, error) {
	lines, err := walk(m, func(path string, i erofs.Info, first string) (string, error) {
		switch {
		case first != "" && (i.Type != unix.S_IFCHR || i.Major != 0 || i.Minor != 0):
			return path + " = " + first, nil
		case i.Type == unix.S_IFREG:
			data, err := io.ReadAll(m.Data(i))
			return path + " " + string(data), err
		case i.Type == unix.S_IFLNK:
			target, err := m.Readlink(i)
			return path + " -> " + target, err
		case i.Type == unix.S_IFCHR && i.Major == 0 && i.Minor == 0:
			return path + " whiteout", nil
		case i.Type != unix.S_IFDIR:
			return fmt.Sprintf("%s %o %d,%d", path, i.Type, i.Major, i.Minor), nil
		}
		for _, x := range i.Xattrs {
			if x.Name == "trusted.overlay.opaque" {
				return path + "/ opaque", nil
			}
		}
		return path + "/", nil
	})
	return slices.DeleteFunc(lines, func(line string) bool { return line == "./" }), err
}

// walk calls describe for each path. Where another one had the inode, first is
// that.
func walk(m *erofs.Image, describe func(path string, i erofs.Info, first string) (string, error)) ([]string, error) {
	var lines []string
	seen := make(map[uint64]string)
	var visit func(path string, nid uint64) error
	visit = func(path string, nid uint64) error {
		i, err := m.Info(nid)
		if err == nil {
			i.Xattrs, err = m.Xattrs(i)
		}
		if err != nil {
			return err
		}
		line, err := describe(path, i, seen[nid])
		if err != nil {
			return err
		}
		lines = append(lines, line)
		if seen[nid] == "" {
			seen[nid] = path
		}
		if i.Type != unix.S_IFDIR {
			return nil
		}
		entries, err := m.ReadDir(i)
		if err != nil {
			return err
		}
		for _, e := range entries {
			sub := e.Name
			if path != "." {
				sub = path + "/" + e.Name
			}
			if err := visit(sub, e.NID); err != nil {
				return err
			}
		}
		return nil
	}
	err := visit(".", m.Root())
	return lines, err
}
