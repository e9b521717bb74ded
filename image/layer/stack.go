package layer

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

// found is an inode of one of the images of a stack.
type found struct {
	image *erofs.Image
	erofs.Info
}

// whiteout tells whether the inode hides what lies below it.
func (f found) whiteout() bool {
	return f.Type == unix.S_IFCHR && f.Major == 0 && f.Minor == 0
}

// opaque tells whether a folder hides what lies below it.
func (f found) opaque() (bool, error) {
	xattrs, err := f.image.Xattrs(f.Info)
	for _, x := range xattrs {
		if x.Name == opaqueXattr && string(x.Value) == "y" {
			return true, err
		}
	}
	return false, err
}

// visible cuts the folders of one path, the topmost first, below the first
// that is opaque.
func visible(dirs []found) ([]found, error) {
	for n, d := range dirs {
		opaque, err := d.opaque()
		if err != nil {
			return nil, err
		}
		if opaque {
			return dirs[:n+1], nil
		}
	}
	return dirs, nil
}

// roots are the root folders of images, the topmost first; the images are
// given from the lowest on.
func roots(images []*erofs.Image) ([]found, error) {
	var dirs []found
	for n := len(images) - 1; n >= 0; n-- {
		info, err := images[n].Info(images[n].Root())
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, found{images[n], info})
	}
	return visible(dirs)
}

// child is what one name in such folders stands for: the folders of that name
// that show, or one inode of another type. Nothing: there is no such name.
func child(dirs []found, name string) ([]found, error) {
	var all []found
	for _, d := range dirs {
		info, err := d.image.Lookup(d.Info, name)
		if errors.Is(err, erofs.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		var more bool
		if all, more, err = add(all, found{d.image, info}); err != nil || !more {
			return all, err
		}
	}
	return all, nil
}

// add adds what the next lower folder has of a name; more tells whether those
// below that still show.
func add(all []found, f found) (_ []found, more bool, err error) {
	if f.Type == unix.S_IFDIR {
		opaque, err := f.opaque()
		return append(all, f), !opaque, err
	}
	if len(all) == 0 && !f.whiteout() {
		all = append(all, f)
	}
	return all, false, nil
}

// list is child for all names in such folders.
func list(dirs []found) (map[string][]found, error) {
	shown := make(map[string][]found)
	hidden := make(map[string]bool) // in the folders that are still to come
	for _, d := range dirs {
		entries, err := d.image.ReadDir(d.Info)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if hidden[e.Name] {
				continue
			}
			info, err := d.image.Info(e.NID)
			if err != nil {
				return nil, err
			}
			all, more, err := add(shown[e.Name], found{d.image, info})
			if err != nil {
				return nil, err
			}
			if hidden[e.Name] = !more; len(all) > 0 {
				shown[e.Name] = all
			}
		}
	}
	return shown, nil
}

// Inherit gives the folders of an unpacked layer that it has something in
// without naming them (Result.Implied) the attributes that they have in the
// layers below, the lowest first, as containerd does: otherwise the overlay
// would show /tmp as 0755 root, say. Extended attributes are not taken over.
//
// It changes the image in place, and may be repeated. Errors: erofs.ErrCorrupt,
// those of reading and writing.
func Inherit(image erofs.ReaderWriterAt, size int64, implied []string, below []*erofs.Image) error {
	if len(implied) == 0 || len(below) == 0 {
		return nil
	}
	m, err := erofs.Open(image, size)
	if err != nil {
		return err
	}
	for _, path := range implied {
		lower, err := lookup(below, path)
		if err == nil && lower != nil {
			var own []found
			if own, err = lookup([]*erofs.Image{m}, path); err == nil && own != nil {
				err = erofs.SetAttr(image, own[0].Info, lower[0].Attr)
			}
		}
		if err != nil {
			return fmt.Errorf("folder %q: %w", path, err)
		}
	}
	return nil
}

// lookup finds the folders of a path, which show; nil: it is none.
func lookup(images []*erofs.Image, path string) ([]found, error) {
	dirs, err := roots(images)
	for part := range strings.SplitSeq(path, "/") {
		if err != nil || len(dirs) == 0 || dirs[0].Type != unix.S_IFDIR {
			return nil, err
		}
		if part != "" {
			dirs, err = child(dirs, part)
		}
	}
	if err != nil || len(dirs) == 0 || dirs[0].Type != unix.S_IFDIR {
		return nil, err
	}
	return dirs, nil
}
