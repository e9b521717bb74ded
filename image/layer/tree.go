package layer

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // folders and files of AUFS' own
	aufsLinks      = ".wh..wh.plnk"

	opaqueXattr   = "trusted.overlay.opaque"
	overlayXattrs = "trusted.overlay."

	maxPath     = 4096 // PATH_MAX
	maxSymlinks = 40   // as the kernel's, of the resolution of one name
)

// tree is what a layer says, on the way to an image. Names are resolved in it
// as they would be in the folder that the layer was unpacked to: also through
// symbolic links, but only those of the layer itself, and never above its root.
type tree struct {
	root    *erofs.Dir
	targets map[*erofs.Inode]string // of symbolic links
	// white is what whiteouts are in the image: a device 0:0, one for all.
	white *erofs.Inode
	// whites are the names that the layer has whiteouts of, whatever became
	// of the entry: nothing from below may show there.
	whites map[place]bool
	opaque map[*erofs.Dir]bool
	// implied are folders that the layer has something in without naming them.
	implied map[*erofs.Dir]bool
	budget  *budget
}

// place is a name in a folder.
type place struct {
	dir  *erofs.Dir
	name string
}

func newTree(b *budget) *tree {
	t := &tree{
		root:    impliedDir(),
		targets: make(map[*erofs.Inode]string),
		whites:  make(map[place]bool),
		opaque:  make(map[*erofs.Dir]bool),
		implied: make(map[*erofs.Dir]bool),
		budget:  b,
	}
	t.implied[t.root] = true
	return t
}

// impliedDir is a folder that no entry of the layer names, so far.
func impliedDir() *erofs.Dir {
	return &erofs.Dir{Attr: erofs.Attr{Mode: 0o755}, Changeable: true}
}

// cleanName makes the name of an entry relative to the root, which is "".
// Absolute names are taken to be relative, and a name that leads above the
// root is an error.
func cleanName(name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("entry without a name: %w", ErrInvalid)
	}
	if len(name) > maxPath || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("name %.80q of %d bytes: more than %d, or a zero byte: %w", name, len(name), maxPath, ErrInvalid)
	}
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("name %q leads out of the root: %w", name, ErrInvalid)
	}
	if clean == "." {
		return "", nil
	}
	return clean, nil
}

// dir finds the folder of that path, following symbolic links, and in how many
// folders it lies. Where create is set, what is missing is made; otherwise nil
// is returned.
func (t *tree) dir(name string, create bool) (_ *erofs.Dir, depth int, _ error) {
	walk := []*erofs.Dir{t.root}
	links := 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		cur := walk[len(walk)-1]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			walk = walk[:max(1, len(walk)-1)]
			continue
		}
		e := cur.Get(part)
		target, link := t.targets[e.Inode]
		switch {
		case e.Dir != nil:
			walk = append(walk, e.Dir)
		case link:
			if links++; links > maxSymlinks {
				return nil, 0, fmt.Errorf("%q: more than %d symbolic links: %w", name, maxSymlinks, ErrInvalid)
			}
			if strings.HasPrefix(target, "/") {
				walk = walk[:1]
			}
			rest = target + "/" + rest
		case e.Exists() && e.Inode != t.white:
			return nil, 0, fmt.Errorf("%q: %q is not a folder: %w", name, part, ErrInvalid)
		case !create:
			return nil, 0, nil
		default:
			d, err := t.mkdir(cur, part, len(walk)-1)
			if err != nil {
				return nil, 0, err
			}
			if err := t.budget.inode(); err != nil {
				return nil, 0, err
			}
			// In place of a whiteout it is another folder than the one below.
			t.implied[d] = !t.opaque[d]
			walk = append(walk, d)
		}
	}
	return walk[len(walk)-1], len(walk) - 1, nil
}

// mkdir makes a folder in place of what there is; depth is that of its parent.
func (t *tree) mkdir(parent *erofs.Dir, name string, depth int) (*erofs.Dir, error) {
	if limit := t.budget.lim.Depth; depth >= limit {
		return nil, exceeded("folders in each other", int64(limit))
	}
	d := impliedDir()
	if t.whites[place{parent, name}] {
		t.opaque[d] = true
	}
	return d, t.set(parent, name, erofs.Entry{Dir: d})
}

// set puts an entry in place of what there is.
func (t *tree) set(parent *erofs.Dir, name string, e erofs.Entry) error {
	if len(name) > erofs.MaxName {
		return fmt.Errorf("name %.80q of %d bytes, at most %d: %w", name, len(name), erofs.MaxName, ErrInvalid)
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("name %q begins as a whiteout's does: %w", name, ErrInvalid)
	}
	parent.Set(name, e)
	return t.budget.keep(len(name))
}

// whiteout hides the name in the layers below.
func (t *tree) whiteout(parent *erofs.Dir, name string) error {
	if name == "" || name == "." || name == ".." || strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("whiteout of %q: %w", name, ErrInvalid)
	}
	t.whites[place{parent, name}] = true
	if err := t.budget.keep(len(name)); err != nil {
		return err
	}
	// It is of the layers below only: what this one has of that name stays.
	switch e := parent.Get(name); {
	case e.Dir != nil:
		t.opaque[e.Dir] = true
		delete(t.implied, e.Dir)
	case !e.Exists():
		return t.set(parent, name, erofs.Entry{Inode: t.white})
	}
	return nil
}

// link finds the inode that a hard link names.
func (t *tree) link(target string) (*erofs.Inode, error) {
	clean, err := cleanName(target)
	if err != nil {
		return nil, fmt.Errorf("hard link: %w", err)
	}
	folder, base := path.Split(clean)
	d, _, err := t.dir(folder, false)
	if err != nil {
		return nil, fmt.Errorf("hard link: %w", err)
	}
	var e erofs.Entry
	if d != nil {
		e = d.Get(base)
	}
	switch {
	case e.Dir != nil || clean == "":
		return nil, fmt.Errorf("hard link to folder %q: %w", target, ErrInvalid)
	case !e.Exists() || e.Inode == t.white:
		return nil, fmt.Errorf("hard link to %q, which the layer does not have so far: %w", target, ErrInvalid)
	}
	return e.Inode, nil
}

// finish makes the tree what an overlay takes for a layer: opaque folders are
// marked. What lies in one has nothing below it, so that its own whiteouts hide
// nothing: they go, since an overlay would list them.
func (t *tree) finish() {
	for d := range t.opaque {
		t.prune(d)
		d.Attr.Xattrs = append(slices.Clip(d.Attr.Xattrs), erofs.Xattr{Name: opaqueXattr, Value: []byte("y")})
	}
}

// prune removes the whiteouts in a folder.
func (t *tree) prune(d *erofs.Dir) {
	for _, name := range d.Names() {
		switch e := d.Get(name); {
		case e.Dir != nil && !t.opaque[e.Dir]: // opaque ones have their own turn
			t.prune(e.Dir)
		case e.Inode != nil && e.Inode == t.white:
			d.Delete(name)
		}
	}
}

// impliedPaths are the paths of folders that the layer does not name, but for
// those that nothing below can show in. Their inodes can be changed.
func (t *tree) impliedPaths() ([]string, error) {
	var paths []string
	var walk func(d *erofs.Dir, path string) error
	walk = func(d *erofs.Dir, path string) error {
		if t.implied[d] {
			paths = append(paths, path+"/")
			if err := t.budget.keep(len(path)); err != nil {
				return err
			}
		}
		if t.opaque[d] {
			return nil
		}
		for _, name := range d.Names() {
			if sub := d.Get(name).Dir; sub != nil {
				if err := walk(sub, path+"/"+name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	err := walk(t.root, "")
	return paths, err
}

// overlay puts another tree, of a layer above, over this one, as the kernel's
// overlay does. Whiteouts have done their work then.
func (t *tree) overlay(upper *tree) {
	t.merge(t.root, upper.root, upper)
	for i, target := range upper.targets {
		t.targets[i] = target
	}
}

func (t *tree) merge(lower, upper *erofs.Dir, u *tree) {
	if u.opaque[upper] {
		for _, name := range lower.Names() {
			lower.Delete(name)
		}
	}
	if !u.implied[upper] {
		lower.Attr = upper.Attr
	}
	for _, name := range upper.Names() {
		e := upper.Get(name)
		below := lower.Get(name)
		switch {
		case e.Inode == u.white && e.Inode != nil:
			lower.Delete(name)
		case e.Dir != nil && below.Dir != nil:
			t.merge(below.Dir, e.Dir, u)
		case e.Dir != nil:
			d := &erofs.Dir{Attr: e.Dir.Attr}
			lower.Set(name, erofs.Entry{Dir: d})
			t.merge(d, e.Dir, u)
		default:
			lower.Set(name, e)
		}
	}
}
