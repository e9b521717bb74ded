package erofs

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// Check reads all metadata of an image and returns the first thing that is
// wrong: anything outside the image or overlapping, a folder that is out of
// order or not a tree, a wrong count of links or of inodes. It does not read
// the data of files, which has no checksums.
//
// Errors: ErrCorrupt, that of reading, the cause of ctx' end.
func Check(ctx context.Context, m *Image) error {
	c := &checker{m: m, seen: make(map[uint64]*visited)}
	c.use(0, superOffset+superSize)
	root, err := m.Info(m.Root())
	if err != nil {
		return fmt.Errorf("root folder: %w", err)
	}
	if err := c.inode(ctx, root, root); err != nil {
		return err
	}
	for nid, v := range c.seen {
		if v.found != v.links {
			return fmt.Errorf("inode %d has %d links, but says %d: %w", nid, v.found, v.links, ErrCorrupt)
		}
	}
	if n := uint64(len(c.seen)); n != m.super.inodes {
		return fmt.Errorf("%d inodes, but the superblock says %d: %w", n, m.super.inodes, ErrCorrupt)
	}
	return c.overlaps()
}

// maxDepth is how many folders Check follows into each other: more than a path
// can name.
const maxDepth = 4096

// checker walks an image.
type checker struct {
	m     *Image
	seen  map[uint64]*visited
	used  []part
	depth int
}

type visited struct {
	kind         uint16
	links, found uint32
}

// part is a part of the image that something uses.
type part struct{ from, to int64 }

func (c *checker) use(from, length int64) {
	if length > 0 {
		c.used = append(c.used, part{from, from + length})
	}
}

// inode checks an inode that is met for the first time, and what is in it.
func (c *checker) inode(ctx context.Context, i, parent Info) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.seen[i.NID] = &visited{kind: i.Type, links: i.Links, found: 1}
	if _, err := c.m.Xattrs(i); err != nil {
		return err
	}
	c.use(i.offset, i.length+int64(i.xattrs))
	if i.layout == layoutChunks {
		chunk := int64(BlockSize) << (i.union & chunkBitsMask)
		c.use(roundUp(c.m.after(i), 4), (i.Size+chunk-1)/chunk*4)
	}
	switch i.Type {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
		if err := c.data(i); err != nil {
			return err
		}
	}
	switch i.Type {
	case unix.S_IFLNK:
		_, err := c.m.Readlink(i)
		return err
	case unix.S_IFDIR:
		return c.dir(ctx, i, parent)
	}
	return nil
}

func (c *checker) data(i Info) error {
	for e, err := range c.m.Extents(i) {
		if err != nil {
			return fmt.Errorf("inode %d: %w", i.NID, err)
		}
		if e.Physical >= 0 {
			c.use(e.Physical, e.Length)
		}
	}
	return nil
}

// dir checks the entries of a folder.
func (c *checker) dir(ctx context.Context, i, parent Info) error {
	entries, err := c.m.readDir(i)
	if err != nil {
		return err
	}
	if c.depth++; c.depth > maxDepth {
		return fmt.Errorf("more than %d folders in each other: %w", maxDepth, ErrCorrupt)
	}
	defer func() { c.depth-- }()
	dots, links := 0, uint32(2)
	for _, e := range entries {
		if e.Name == "." || e.Name == ".." {
			dots++
			if want := map[string]uint64{".": i.NID, "..": parent.NID}[e.Name]; e.NID != want || e.Type != unix.S_IFDIR {
				return fmt.Errorf("folder %d: %q is inode %d, want %d: %w", i.NID, e.Name, e.NID, want, ErrCorrupt)
			}
			continue
		}
		if e.Type == unix.S_IFDIR {
			links++
		}
		if err := c.entry(ctx, e, i); err != nil {
			return err
		}
	}
	if dots != 2 {
		return fmt.Errorf("folder %d has no %q and %q: %w", i.NID, ".", "..", ErrCorrupt)
	}
	c.seen[i.NID].found = links
	return nil
}

func (c *checker) entry(ctx context.Context, e Dirent, dir Info) error {
	v := c.seen[e.NID]
	if v == nil {
		child, err := c.m.Info(e.NID)
		if err != nil {
			return fmt.Errorf("%q: %w", e.Name, err)
		}
		if child.Type != e.Type {
			return fmt.Errorf("%q has type %#o, but its inode %d %#o: %w", e.Name, e.Type, e.NID, child.Type, ErrCorrupt)
		}
		return c.inode(ctx, child, dir)
	}
	if v.kind == unix.S_IFDIR || v.kind != e.Type {
		return fmt.Errorf("%q is a further link to inode %d of type %#o: %w", e.Name, e.NID, v.kind, ErrCorrupt)
	}
	v.found++
	return nil
}

// overlaps looks for parts of the image that are used twice.
func (c *checker) overlaps() error {
	slices.SortFunc(c.used, func(a, b part) int { return cmp.Compare(a.from, b.from) })
	for n := 1; n < len(c.used); n++ {
		if a, b := c.used[n-1], c.used[n]; a.to > b.from {
			return fmt.Errorf("bytes %d to %d and %d to %d overlap: %w", a.from, a.to, b.from, b.to, ErrCorrupt)
		}
	}
	return nil
}
