// Package mountpoint makes the places in a container's root file system that
// its mounts go to, as runc does: folders and files of mode 0755, also where a
// symlink leads nowhere yet. crun makes them too, with other modes, and gives
// up at a symlink that dangles. It is used by the agent only.
//
// Everything is found below the folders of the container's share, component by
// component and by descriptor: a symlink is read and followed here, never by
// the kernel, so that nothing the image or another container puts there leads
// out.
package mountpoint

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many symlinks one path may have (path_resolution(7)).
	maxLinks = 40
	mode     = 0o755
)

// ErrElsewhere is a path that lies in a file system which is not mounted yet.
var ErrElsewhere = errors.New("not in the share")

// Tree is what of a container's file system exists before its mounts are made:
// the rootfs, and the sources of its bind mounts where they will be.
type Tree struct {
	// UID and GID own what is made.
	UID, GID int
	mounts   []mount
}

// mount is a mount that is going to be.
type mount struct {
	at   string // without symlinks
	from string // folder or file; "" for a new file system
}

// New makes a tree of a rootfs.
func New(rootfs string) *Tree {
	return &Tree{mounts: []mount{{"/", rootfs}}}
}

// Mount makes the place for the next mount, in the order of the specification:
// a file if file is set, otherwise a folder. from is the source of a bind
// mount, "" of another one. It gives the mode of the place where that was there
// before, otherwise 0.
//
// An error leaves the place to crun, which has a better text for it.
func (t *Tree) Mount(place, from string, file bool) (os.FileMode, error) {
	at, st, err := t.walk(place, &making{file: file})
	if err != nil {
		return 0, err
	}
	t.mounts = append(t.mounts, mount{at, from})
	if st == nil {
		return 0, nil
	}
	return os.FileMode(st.Mode & 0o7777), nil
}

// ReadFile reads a regular file of at most limit bytes.
func (t *Tree) ReadFile(name string, limit int64) ([]byte, error) {
	at, st, err := t.walk(name, nil)
	if err != nil {
		return nil, err
	}
	if st == nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("%s: %w", name, unix.EINVAL)
	}
	dir, base, err := t.open(at)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := openBelow(dir, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// making says that what is missing is to be made.
type making struct{ file bool }

// walk gives a path without symlinks, and what is there: nil where it has just
// been made.
func (t *Tree) walk(name string, make *making) (string, *unix.Stat_t, error) {
	at, pending := "/", split(name)
	var st *unix.Stat_t
	for links := 0; len(pending) > 0; {
		next := pending[0]
		pending = pending[1:]
		if next == ".." {
			at, st = path.Dir(at), nil
			continue
		}
		found, link, err := t.look(path.Join(at, next))
		switch {
		case errors.Is(err, unix.ENOENT) && make != nil:
			if err := t.make(path.Join(at, next), make.file && len(pending) == 0); err != nil {
				return "", nil, err
			}
			at, st = path.Join(at, next), nil
			continue
		case err != nil:
			return "", nil, fmt.Errorf("%s: %w", name, err)
		case link == "":
			at, st = path.Join(at, next), found
			continue
		}
		if links++; links > maxLinks {
			return "", nil, fmt.Errorf("%s: %w", name, unix.ELOOP)
		}
		if path.IsAbs(link) {
			at = "/"
		}
		pending = append(split(link), pending...)
	}
	return at, st, nil
}

func split(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(s string) bool { return s == "" || s == "." })
}

// look gives what is at a path without symlinks but for the last component,
// and where that leads if it is one.
func (t *Tree) look(at string) (*unix.Stat_t, string, error) {
	dir, base, err := t.open(at)
	if err != nil {
		return nil, "", err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return &st, "", nil
	}
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, base, buf)
	if err == nil && n == 0 {
		err = unix.ENOENT
	}
	return &st, string(buf[:max(n, 0)]), err
}

func (t *Tree) make(at string, file bool) error {
	dir, base, err := t.open(at)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	if file {
		fd, err := unix.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_WRONLY|unix.O_CLOEXEC, mode)
		if err != nil {
			return err
		}
		unix.Close(fd)
	} else if err := unix.Mkdirat(dir, base, mode); err != nil {
		return err
	}
	if t.UID == 0 && t.GID == 0 {
		return nil
	}
	return unix.Fchownat(dir, base, t.UID, t.GID, unix.AT_SYMLINK_NOFOLLOW)
}

// open opens the folder that a path without symlinks is in, and gives the last
// component. The root of a mount is "." in itself.
func (t *Tree) open(at string) (int, string, error) {
	m := t.mounts[0]
	for _, other := range t.mounts[1:] {
		if at == other.at || strings.HasPrefix(at, other.at+"/") {
			m = other // the latest covers the others
		}
	}
	if m.from == "" {
		return -1, "", fmt.Errorf("%s: %w", at, ErrElsewhere)
	}
	root, err := unix.Open(m.from, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return -1, "", err
	}
	below := strings.TrimPrefix(strings.TrimPrefix(at, m.at), "/")
	if below == "" {
		return t.openRoot(root, m.from)
	}
	dir, base := path.Split(below)
	if dir == "" {
		return root, base, nil
	}
	defer unix.Close(root)
	fd, err := openBelow(root, dir, unix.O_PATH|unix.O_DIRECTORY)
	return fd, base, err
}

// openRoot gives a mount's root as a component of its folder: for a file the
// folder is the share's, which is ours.
func (t *Tree) openRoot(root int, from string) (int, string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return root, ".", err
	}
	unix.Close(root)
	fd, err := unix.Open(path.Dir(from), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return fd, path.Base(from), err
}

// openBelow opens a path without symlinks, also against somebody who puts one
// there meanwhile.
func openBelow(dir int, name string, flags uint64) (int, error) {
	return unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}
