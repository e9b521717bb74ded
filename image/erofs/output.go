package erofs

import (
	"bytes"
	"fmt"
	"io"
)

const (
	outputSize = 256 << 10
	// runBlocks is how many blocks are set aside for inodes at a time, so that
	// they lie together although data is written between them.
	runBlocks = 16
)

var zeroes [outputSize]byte

// isZero tells whether all bytes are zero; at most outputSize of them.
func isZero(p []byte) bool { return bytes.Equal(p, zeroes[:len(p)]) }

// output gathers writes to adjoining places of the image.
type output struct {
	w   io.WriterAt
	buf []byte
	off int64 // where buf belongs
}

// room returns n bytes, at most outputSize, to be filled and then committed.
func (o *output) room(n int) ([]byte, error) {
	if o.buf == nil {
		o.buf = make([]byte, 0, outputSize)
	}
	if len(o.buf)+n > cap(o.buf) {
		if err := o.flush(); err != nil {
			return nil, err
		}
	}
	return o.buf[len(o.buf) : len(o.buf)+n], nil
}

// commit says that the p that room returned belongs at that offset. A gap of
// less than a block is filled with zeroes, and so are longer ones by nobody
// having written there.
func (o *output) commit(p []byte, offset int64) error {
	gap := offset - (o.off + int64(len(o.buf)))
	if gap != 0 && (gap < 0 || gap >= BlockSize || len(o.buf)+int(gap)+len(p) > cap(o.buf)) {
		if err := o.flush(); err != nil {
			return err
		}
		o.off, gap = offset, 0
	}
	at := len(o.buf) + int(gap)
	copy(o.buf[at:at+len(p)], p) // in place, if there is no gap
	clear(o.buf[len(o.buf):at])
	o.buf = o.buf[:at+len(p)]
	return nil
}

// write is room and commit of what lies elsewhere.
func (o *output) write(p []byte, offset int64) error {
	for len(p) > 0 {
		n := min(len(p), outputSize)
		room, err := o.room(n)
		if err != nil {
			return err
		}
		copy(room, p)
		if err := o.commit(room, offset); err != nil {
			return err
		}
		p, offset = p[n:], offset+int64(n)
	}
	return nil
}

func (o *output) flush() error {
	if len(o.buf) == 0 {
		return nil
	}
	if _, err := o.w.WriteAt(o.buf, o.off); err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	o.off += int64(len(o.buf))
	o.buf = o.buf[:0]
	return nil
}

// allocator gives out the blocks of the image, and the places of inodes. It
// is a value: with a copy of it one learns where things would come to lie.
type allocator struct {
	next int64 // the first free block
	run  int64 // the first block for inodes; 0 is none, as there is the superblock
	used [runBlocks]uint16
}

// place finds n adjoining bytes for an inode with what follows it: in one
// block, if they fit into one. Where that begins a new run, fresh is set.
func (a *allocator) place(n int) (offset int64, fresh bool) {
	if n > BlockSize {
		offset = a.next * BlockSize
		a.next += int64(roundUp(n, BlockSize)) / BlockSize
		return offset, false
	}
	if a.run != 0 {
		for i, used := range a.used {
			start := roundUp(int(used), slotSize)
			if start+n <= BlockSize {
				a.used[i] = uint16(start + n)
				return (a.run+int64(i))*BlockSize + int64(start), false
			}
		}
	}
	a.run, a.next = a.next, a.next+runBlocks
	a.used = [runBlocks]uint16{uint16(n)}
	return a.run * BlockSize, true
}

// trim gives the blocks back that the last run does not need.
func (a *allocator) trim() {
	if a.run == 0 || a.run+runBlocks != a.next {
		return
	}
	for i := runBlocks - 1; i >= 0 && a.used[i] == 0; i-- {
		a.next--
	}
}
