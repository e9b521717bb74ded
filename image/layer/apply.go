package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"math"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

const (
	paxXattr   = "SCHILY.xattr."
	modeBits   = 0o7777
	xattrTotal = 64 << 10 // of one inode: the kernel lists no more
)

// applier carries out the entries of one layer after the other.
type applier struct {
	budget  *budget
	image   *erofs.Writer
	white   *erofs.Inode // the one of all whiteouts, once there is one
	dropped int          // extended attributes
}

// apply reads the entries of a layer. All data of files goes into the image.
//
// Errors: ErrInvalid, ErrLimit, that of the stream or the image.
func (a *applier) apply(ctx context.Context, r io.Reader) (*tree, error) {
	src := &source{r: r}
	l := &layerReader{applier: a, src: src, tar: tar.NewReader(src), tree: newTree(a.budget), aufs: make(map[string]*erofs.Inode)}
	l.tree.white = a.white
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		hdr, err := l.tar.Next()
		if err == io.EOF { // not one that is wrapped: that is of the blob
			return l.tree, nil
		}
		if err != nil {
			return nil, l.tarError(err)
		}
		if err := a.budget.inode(); err != nil {
			return nil, err
		}
		if err := l.entry(hdr); err != nil {
			return nil, fmt.Errorf("entry %.200q: %w", hdr.Name, err)
		}
	}
}

// tarError is what an error of reading the archive means.
func (l *layerReader) tarError(err error) error {
	if l.src.err != nil {
		return l.src.err
	}
	return fmt.Errorf("%w: %w", ErrInvalid, err)
}

// Read reads the data of the current entry.
func (l *layerReader) Read(p []byte) (int, error) {
	n, err := l.tar.Read(p)
	if err != nil && err != io.EOF {
		err = l.tarError(err)
	}
	return n, err
}

// layerReader carries out the entries of one layer.
type layerReader struct {
	*applier
	src  *source
	tar  *tar.Reader
	tree *tree
	// aufs has the files of AUFS' folder of hard links, by their names.
	aufs map[string]*erofs.Inode
}

// entry carries out one entry.
func (l *layerReader) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil {
		return err
	}
	folder, base := path.Split(name)
	if base == "" {
		return l.rootEntry(hdr)
	}
	if strings.HasPrefix(name, aufsPrefix) && base != opaqueMarker {
		return l.aufsEntry(hdr, name)
	}
	parent, depth, err := l.tree.dir(folder, true)
	if err != nil {
		return err
	}
	if base == opaqueMarker {
		l.tree.opaque[parent] = true
		return nil
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		return l.whiteout(parent, hidden)
	}
	if hdr.Typeflag == tar.TypeDir {
		return l.folder(hdr, parent, base, depth)
	}
	if hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0 {
		return l.whiteout(parent, base) // overlay takes it for one
	}
	i, err := l.inode(hdr)
	if err != nil {
		return err
	}
	return l.tree.set(parent, base, erofs.Entry{Inode: i})
}

// whiteout hides the name in the layers below.
func (l *layerReader) whiteout(parent *erofs.Dir, name string) error {
	if l.white == nil {
		var err error
		if l.white, err = l.image.Node(erofs.Attr{}, unix.S_IFCHR, 0, 0); err != nil {
			return err
		}
		l.tree.white = l.white
	}
	return l.tree.whiteout(parent, name)
}

// rootEntry sets the attributes of the root.
func (l *layerReader) rootEntry(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return fmt.Errorf("the root, but of type %q: %w", hdr.Typeflag, ErrInvalid)
	}
	return l.setDir(hdr, l.tree.root)
}

// folder makes a folder, or gives the one that there is other attributes.
func (l *layerReader) folder(hdr *tar.Header, parent *erofs.Dir, base string, depth int) error {
	d := parent.Get(base).Dir
	if d == nil {
		var err error
		if d, err = l.tree.mkdir(parent, base, depth); err != nil {
			return err
		}
	}
	return l.setDir(hdr, d)
}

func (l *layerReader) setDir(hdr *tar.Header, d *erofs.Dir) (err error) {
	if d.Attr, err = l.attr(hdr); err != nil {
		return err
	}
	delete(l.tree.implied, d)
	d.Changeable = false
	for _, x := range d.Attr.Xattrs {
		if err := l.budget.keep(len(x.Name) + len(x.Value)); err != nil {
			return err
		}
	}
	return nil
}

// aufsEntry takes an entry of AUFS' own: they are left out, but files in its
// folder of hard links are what hard links may name.
func (l *layerReader) aufsEntry(hdr *tar.Header, name string) error {
	file, ok := strings.CutPrefix(name, aufsLinks+"/")
	if !ok || hdr.Typeflag != tar.TypeReg {
		return nil
	}
	i, err := l.inode(hdr)
	if err == nil {
		l.aufs[file] = i
		err = l.budget.keep(len(file))
	}
	return err
}

// inode writes what an entry other than a folder stands for.
func (l *layerReader) inode(hdr *tar.Header) (*erofs.Inode, error) {
	if hdr.Typeflag == tar.TypeLink {
		if target, err := cleanName(hdr.Linkname); err == nil {
			if file, ok := strings.CutPrefix(target, aufsLinks+"/"); ok && l.aufs[file] != nil {
				return l.aufs[file], nil
			}
		}
		return l.tree.link(hdr.Linkname)
	}
	attr, err := l.attr(hdr)
	if err != nil {
		return nil, err
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := l.budget.data(hdr.Size); err != nil {
			return nil, err
		}
		return l.image.File(attr, hdr.Size, l)
	case tar.TypeSymlink:
		return l.symlink(attr, hdr.Linkname)
	case tar.TypeChar:
		return l.device(attr, unix.S_IFCHR, hdr)
	case tar.TypeBlock:
		return l.device(attr, unix.S_IFBLK, hdr)
	case tar.TypeFifo:
		return l.image.Node(attr, unix.S_IFIFO, 0, 0)
	}
	return nil, fmt.Errorf("type %q, want a file, folder, link, device or pipe: %w", hdr.Typeflag, ErrInvalid)
}

func (l *layerReader) symlink(attr erofs.Attr, target string) (*erofs.Inode, error) {
	if target == "" || len(target) > erofs.MaxSymlink || strings.ContainsRune(target, 0) {
		return nil, fmt.Errorf("symbolic link to %.80q, want 1 to %d bytes, none zero: %w", target, erofs.MaxSymlink, ErrInvalid)
	}
	if err := l.budget.keep(len(target)); err != nil {
		return nil, err
	}
	attr.Mode = 0o777 // as all of Linux' are
	i, err := l.image.Symlink(attr, target)
	if err == nil {
		l.tree.targets[i] = target
	}
	return i, err
}

func (l *layerReader) device(attr erofs.Attr, kind uint16, hdr *tar.Header) (*erofs.Inode, error) {
	if hdr.Devmajor < 0 || hdr.Devmajor >= 1<<12 || hdr.Devminor < 0 || hdr.Devminor >= 1<<20 {
		return nil, fmt.Errorf("device %d:%d, want numbers of 12 and 20 bits: %w", hdr.Devmajor, hdr.Devminor, ErrInvalid)
	}
	return l.image.Node(attr, kind, uint32(hdr.Devmajor), uint32(hdr.Devminor))
}

// attr makes the attributes of an entry's inode.
func (l *layerReader) attr(hdr *tar.Header) (erofs.Attr, error) {
	if uint64(hdr.Uid) > math.MaxUint32-1 || uint64(hdr.Gid) > math.MaxUint32-1 {
		return erofs.Attr{}, fmt.Errorf("owner %d:%d, want 32 bits: %w", hdr.Uid, hdr.Gid, ErrInvalid)
	}
	attr := erofs.Attr{
		Mode: uint16(hdr.Mode & modeBits), UID: uint32(hdr.Uid), GID: uint32(hdr.Gid),
		Sec: hdr.ModTime.Unix(), Nsec: uint32(hdr.ModTime.Nanosecond()),
	}
	total := 0
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok || strings.HasPrefix(name, overlayXattrs) {
			continue
		}
		if !erofs.XattrSupported(name) {
			l.dropped++
			continue
		}
		if total += len(name) + len(value); total > xattrTotal || len(value) > erofs.MaxXattr {
			return erofs.Attr{}, fmt.Errorf("extended attributes of more than %d bytes: %w", xattrTotal, ErrInvalid)
		}
		attr.Xattrs = append(attr.Xattrs, erofs.Xattr{Name: name, Value: []byte(value)})
	}
	return attr, nil
}
