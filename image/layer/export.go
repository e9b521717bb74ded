package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

// ErrNotEmpty says that a folder to export to has something in it.
var ErrNotEmpty = errors.New("folder is not empty")

// Exported says what Export has made.
type Exported struct {
	Entries int64 // files, folders and so on, without the folder itself
	// DroppedXattrs is how many extended attributes were left out: those
	// other than user.* and security.capability, and those that the file
	// system cannot hold.
	DroppedXattrs int
}

// Export writes what an overlay of the images would show, the lowest first,
// into dir, an empty folder, whose own attributes it sets as well. It needs to
// be root, like all programs that make devices and give files away.
//
// Everything is made by descriptors of the folder that it lies in, and nothing
// that exists is ever opened by way of a symbolic link. After an error there is
// a part of it. Nothing is synced.
//
// Errors: ErrNotEmpty, erofs.ErrCorrupt, those of system calls, the cause of
// ctx' end.
func Export(ctx context.Context, images []*os.File, dir *os.File) (Exported, error) {
	x := &exporter{ctx: ctx, root: dir, files: make(map[*erofs.Image]*os.File), links: make(map[link]string)}
	var opened []*erofs.Image
	for _, f := range images {
		st, err := f.Stat()
		if err != nil {
			return Exported{}, err
		}
		m, err := erofs.Open(f, st.Size())
		if err != nil {
			return Exported{}, fmt.Errorf("%s: %w", f.Name(), err)
		}
		x.files[m] = f
		opened = append(opened, m)
	}
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return Exported{}, err
	}
	if names, err := dir.ReadDir(1); !errors.Is(err, io.EOF) {
		return Exported{}, errors.Join(err, fmt.Errorf("%s has %d entries: %w", dir.Name(), len(names), ErrNotEmpty))
	}
	dirs, err := roots(opened)
	if err == nil && len(dirs) > 0 {
		err = x.folder(int(dir.Fd()), "", dirs)
	}
	return x.made, err
}

// exporter writes a folder.
type exporter struct {
	ctx   context.Context
	root  *os.File
	files map[*erofs.Image]*os.File
	links map[link]string // the first paths of inodes with several
	depth int
	made  Exported
}

// link names an inode.
type link struct {
	image *erofs.Image
	nid   uint64
}

// folder fills the folder fd, which has that path, and then sets its
// attributes.
func (x *exporter) folder(fd int, path string, dirs []found) error {
	if x.depth++; x.depth > maxPath {
		return fmt.Errorf("%.200q: %w", path, erofs.ErrCorrupt)
	}
	defer func() { x.depth-- }()
	entries, err := list(dirs)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		if err := x.entry(fd, path, name, entries[name]); err != nil {
			return err
		}
		x.made.Entries++
	}
	return x.attributes(fd, path, dirs[0])
}

// entry makes an entry of the folder fd.
func (x *exporter) entry(fd int, dir, name string, entry []found) (err error) {
	path := strings.TrimPrefix(dir+"/"+name, "/")
	defer func() {
		var errno unix.Errno
		if errors.As(err, &errno) && !errors.As(err, new(*os.PathError)) {
			err = &os.PathError{Op: "export", Path: path, Err: err}
		}
	}()
	f := entry[0]
	if f.Type != unix.S_IFDIR && f.Links > 1 {
		key := link{f.image, f.NID}
		if first, ok := x.links[key]; ok {
			return x.link(fd, name, first)
		}
		x.links[key] = path
	}
	switch f.Type {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(fd, name, 0o700); err != nil {
			return err
		}
		sub, err := openBeneath(fd, name, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(sub)
		return x.folder(sub, path, entry)
	case unix.S_IFREG:
		return x.file(fd, path, name, f)
	case unix.S_IFLNK:
		target, err := f.image.Readlink(f.Info)
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, fd, name); err != nil {
			return err
		}
		if err := unix.Fchownat(fd, name, int(f.UID), int(f.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		return unix.UtimesNanoAt(fd, name, times(f), unix.AT_SYMLINK_NOFOLLOW)
	}
	return x.node(fd, name, f)
}

// openBeneath opens what was made in a folder.
func openBeneath(fd int, path string, flags uint64) (int, error) {
	return unix.Openat2(fd, path, &unix.OpenHow{
		Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
}

// link makes a further hard link to what was made first.
func (x *exporter) link(fd int, name, first string) error {
	src, err := openBeneath(int(x.root.Fd()), first, unix.O_PATH)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", first, err)
	}
	defer unix.Close(src)
	return unix.Linkat(src, "", fd, name, unix.AT_EMPTY_PATH)
}

// node makes a device, pipe or socket.
func (x *exporter) node(fd int, name string, f found) error {
	mode := uint32(f.Type | f.Mode)
	if err := unix.Mknodat(fd, name, mode, int(unix.Mkdev(f.Major, f.Minor))); err != nil {
		return err
	}
	if err := unix.Fchownat(fd, name, int(f.UID), int(f.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	// The mode again, without the umask. The inode must not be opened for
	// that, and fchmodat follows links.
	node, err := openBeneath(fd, name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(node)
	if err := unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", node), uint32(f.Mode)); err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, name, times(f), unix.AT_SYMLINK_NOFOLLOW)
}

func times(f found) []unix.Timespec {
	t := unix.Timespec{Sec: f.Sec, Nsec: int64(f.Nsec)}
	return []unix.Timespec{t, t}
}

// file writes a regular file.
func (x *exporter) file(fd int, path, name string, f found) error {
	how := unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_CLOEXEC, Mode: 0o600,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	}
	dst, err := unix.Openat2(fd, name, &how)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(dst), path)
	defer file.Close()
	for e, err := range f.image.Extents(f.Info) {
		if err == nil && x.ctx.Err() != nil {
			err = context.Cause(x.ctx)
		}
		if err == nil && e.Physical >= 0 {
			err = copyRange(file, x.files[f.image], e)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Ftruncate(dst, f.Size); err != nil { // it may end in a hole
		return err
	}
	return x.attributes(dst, path, f)
}

// copyRange copies data from an image, without it passing through here where
// the kernel can do that, and without copying where the file system can.
func copyRange(dst, src *os.File, e erofs.Extent) error {
	for e.Length > 0 {
		from, to := e.Physical, e.Logical
		n, err := unix.CopyFileRange(int(src.Fd()), &from, int(dst.Fd()), &to, int(min(e.Length, 1<<30)), 0)
		if err != nil || n == 0 {
			break
		}
		e.Physical, e.Logical, e.Length = e.Physical+int64(n), e.Logical+int64(n), e.Length-int64(n)
	}
	// Whatever the reason: reading and writing finds out whether it is one.
	_, err := io.CopyN(io.NewOffsetWriter(dst, e.Logical), io.NewSectionReader(src, e.Physical, e.Length), e.Length)
	return err
}

// attributes sets those of an open file or folder. The order matters: a change
// of the owner takes the setuid bit and capabilities away.
func (x *exporter) attributes(fd int, path string, f found) error {
	if err := unix.Fchown(fd, int(f.UID), int(f.GID)); err != nil {
		return &os.PathError{Op: "chown", Path: path, Err: err}
	}
	xattrs, err := f.image.Xattrs(f.Info)
	if err != nil {
		return err
	}
	for _, a := range xattrs {
		wanted := strings.HasPrefix(a.Name, "user.") || a.Name == "security.capability"
		if wanted {
			err = unix.Fsetxattr(fd, a.Name, a.Value, 0)
		}
		switch {
		case a.Name == opaqueXattr:
		case !wanted || errors.Is(err, unix.ENOTSUP):
			x.made.DroppedXattrs++
		case err != nil:
			return &os.PathError{Op: "set " + a.Name, Path: path, Err: err}
		}
	}
	if err := unix.Fchmod(fd, uint32(f.Mode)); err != nil {
		return &os.PathError{Op: "chmod", Path: path, Err: err}
	}
	t := times(f)
	if err := unix.UtimesNanoAt(fd, "", t, unix.AT_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "set the times", Path: path, Err: err}
	}
	return nil
}
