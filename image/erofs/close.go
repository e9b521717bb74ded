package erofs

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"golang.org/x/sys/unix"
)

// rootOffset is where the root folder's inode lies: its number has only 16
// bits.
const rootOffset = superOffset + superSize

// Stat says what an image has become.
type Stat struct {
	Size   int64  // of the image, in bytes: a multiple of BlockSize
	Inodes uint64 // in it
}

// Close writes the folders and then the superblock. The identity is that of
// the file system; the same calls with the same one make the same image.
//
// A folder must not be found twice in the tree.
func (w *Writer) Close(root *Dir, identity [16]byte) (Stat, error) {
	if !w.timed {
		w.timed, w.super.time, w.super.timeNsec = true, root.Attr.Sec, root.Attr.Nsec
	}
	var c census
	if err := c.take(root); err != nil {
		return Stat{}, err
	}
	w.super.inodes = c.inodes
	// The entries of a folder have the places of those in it and of the one
	// that it is in. So first all get a place, and then they are written.
	root.nid = rootOffset / slotSize
	sim := w.alloc
	if err := w.layout(root, &sim, true); err != nil {
		return Stat{}, err
	}
	block := make([]byte, BlockSize)
	if err := w.writeDir(root, root, block); err != nil {
		return Stat{}, err
	}
	if w.alloc != sim {
		return Stat{}, errors.New("the image's folders came to lie elsewhere than planned")
	}
	if err := w.flushRun(&w.alloc); err != nil {
		return Stat{}, err
	}
	if err := w.out.flush(); err != nil {
		return Stat{}, err
	}
	if err := w.writeLinks(c.linked); err != nil {
		return Stat{}, err
	}
	w.alloc.trim()
	if w.alloc.next > maxBlocks {
		return Stat{}, fmt.Errorf("image of %d blocks: %w", w.alloc.next, ErrTooLarge)
	}
	stat := Stat{Size: w.alloc.next * BlockSize, Inodes: w.super.inodes}
	if err := w.file.Truncate(stat.Size); err != nil {
		return Stat{}, fmt.Errorf("set the image's size: %w", err)
	}
	w.super.rootNID, w.super.blocks, w.super.uuid = uint16(root.nid), uint32(w.alloc.next), identity
	w.super.encode(block)
	if _, err := w.file.WriteAt(block, 0); err != nil {
		return Stat{}, fmt.Errorf("write the superblock: %w", err)
	}
	return stat, nil
}

// census is what a walk over the tree counts.
type census struct {
	inodes uint64
	linked []*Inode // those with more than one name
}

// take counts a folder and what is in it, and sorts its names.
func (c *census) take(d *Dir) error {
	c.inodes++
	d.names = append(d.Names(), ".", "..")
	slices.Sort(d.names)
	d.subdirs = 0
	for _, name := range d.names {
		e := d.entries[name]
		switch {
		case e.Dir != nil:
			d.subdirs++
			if err := c.take(e.Dir); err != nil {
				return err
			}
		case e.Inode != nil:
			switch e.Inode.links++; e.Inode.links {
			case 1:
				c.inodes++
			case 2:
				c.linked = append(c.linked, e.Inode)
			}
			if e.Inode.links > math.MaxUint16 && !e.Inode.extended {
				return fmt.Errorf("%q: more than %d hard links: %w", name, math.MaxUint16, ErrTooLarge)
			}
		}
	}
	return nil
}

// dirRecord makes the record of a folder, but for its data.
func (w *Writer) dirRecord(d *Dir) (*record, error) {
	r, err := w.begin(d.Attr, unix.S_IFDIR)
	if err != nil {
		return nil, err
	}
	r.links, r.extended = 2+uint32(d.subdirs), d.Changeable
	blocks, tail := dirSize(d.names)
	r.size = int64(blocks)*BlockSize + int64(tail)
	if w.inlines(r, tail) {
		r.layout, r.tail = layoutInline, make([]byte, tail)
	}
	return r, nil
}

// layout gives a folder and those in it their places. That of the root is
// given; its data may still lie elsewhere.
func (w *Writer) layout(d *Dir, a *allocator, root bool) error {
	r, err := w.dirRecord(d)
	if err != nil {
		return err
	}
	a.next += blocksOf(r)
	if !root {
		offset, _ := a.place(w.length(r) + len(r.tail))
		d.nid = uint64(offset) / slotSize
	}
	for _, name := range d.names {
		if sub := d.entries[name].Dir; sub != nil {
			if err := w.layout(sub, a, false); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// blocksOf is how many blocks the data of a folder takes that does not follow
// its inode.
func blocksOf(r *record) int64 {
	return roundUp(r.size-int64(len(r.tail)), BlockSize) / BlockSize
}

// writeDir writes a folder and those in it, in the order of layout. The root's
// inode goes into the first block.
func (w *Writer) writeDir(d, parent *Dir, first []byte) error {
	r, err := w.dirRecord(d)
	if err != nil {
		return err
	}
	if n := blocksOf(r); n > 0 {
		r.union = uint32(w.alloc.next)
	}
	offset := w.alloc.next * BlockSize
	w.alloc.next += blocksOf(r)
	full := r.size - int64(len(r.tail))
	err = encodeDir(d, parent, func(block []byte) error {
		if full <= 0 {
			copy(r.tail, block)
			return nil
		}
		full -= int64(len(block))
		err := w.out.write(block, offset)
		offset += int64(len(block))
		return err
	})
	if err != nil {
		return err
	}
	if d == parent {
		b := w.encode(r)
		if rootOffset+len(b) > BlockSize {
			return fmt.Errorf("extended attributes of the root folder, %d bytes: %w", len(r.xattrs), ErrTooLarge)
		}
		copy(first[rootOffset:], b)
	} else if nid, err := w.put(r); err != nil {
		return err
	} else if nid != d.nid {
		return fmt.Errorf("folder at %d instead of %d", nid, d.nid)
	}
	for _, name := range d.names {
		if sub := d.entries[name].Dir; sub != nil {
			if err := w.writeDir(sub, d, nil); err != nil {
				return err
			}
		}
	}
	d.names = nil
	return nil
}

// writeLinks sets the link counts that were not yet known when the inode was
// written.
func (w *Writer) writeLinks(linked []*Inode) error {
	for _, i := range linked {
		at, b := int64(6), le.AppendUint16(nil, uint16(i.links))
		if i.extended {
			at, b = 44, le.AppendUint32(nil, i.links)
		}
		if _, err := w.file.WriteAt(b, int64(i.nid)*slotSize+at); err != nil {
			return fmt.Errorf("write a count of links: %w", err)
		}
	}
	return nil
}

// fits is how many of the names go into one block, and how many bytes they
// take there.
func fits(names []string) (count, size int) {
	for _, name := range names {
		if size+direntSize+len(name) > BlockSize {
			break
		}
		size += direntSize + len(name)
		count++
	}
	return count, size
}

// dirSize is how long a folder's data is: full blocks, and bytes of the last.
func dirSize(names []string) (blocks, tail int) {
	for {
		count, size := fits(names)
		if names = names[count:]; len(names) == 0 {
			return blocks, size
		}
		blocks++
	}
}

// encodeDir makes the blocks of a folder's data. All but the last are full.
// Names and entries are in the order of the names' bytes, throughout the
// folder, since the kernel searches in halves.
func encodeDir(d, parent *Dir, emit func([]byte) error) error {
	block := make([]byte, BlockSize)
	for names := d.names; len(names) > 0; {
		count, size := fits(names)
		clear(block)
		at := count * direntSize
		for i, name := range names[:count] {
			e := d.entries[name]
			nid, kind := uint64(0), uint16(unix.S_IFDIR)
			switch {
			case name == ".":
				nid = d.nid
			case name == "..":
				nid = parent.nid
			case e.Dir != nil:
				nid = e.Dir.nid
			default:
				nid, kind = e.Inode.nid, e.Inode.kind
			}
			b := block[i*direntSize:]
			le.PutUint64(b, nid)
			le.PutUint16(b[8:], uint16(at))
			b[10] = fileTypes[kind]
			at += copy(block[at:], name)
		}
		if names = names[count:]; len(names) > 0 {
			size = BlockSize
		}
		if err := emit(block[:size]); err != nil {
			return err
		}
	}
	return nil
}
