package erofs

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

const (
	// pieceSize is how much data is looked at in one go; only holes of that
	// length are worth a table.
	pieceSize = 64 << 10
	// maxChunks is up to how many chunks a file is divided into, as long as
	// they need not be larger than the format allows.
	maxChunks = 8192
)

// File writes a regular file of that size with what it reads from data, and
// leaves long holes out.
//
// Errors: io.ErrUnexpectedEOF where there is less data, that of data,
// ErrTooLarge, ErrXattr.
func (w *Writer) File(a Attr, size int64, data io.Reader) (*Inode, error) {
	if size < 0 || size > (maxBlocks-w.alloc.next)*BlockSize {
		return nil, fmt.Errorf("file of %d bytes: %w", size, ErrTooLarge)
	}
	r, err := w.begin(a, unix.S_IFREG)
	if err != nil {
		return nil, err
	}
	r.size = size
	if size == 0 {
		return w.finish(r)
	}
	tail := int(size % BlockSize)
	if !w.inlines(r, tail) {
		tail = 0
	}
	c := chunks{w: w, total: size, size: chunkSize(size), start: w.alloc.next}
	if err := c.copy(data, size-int64(tail)); err != nil {
		return nil, err
	}
	switch {
	case c.holes():
		if err := c.copy(data, size); err != nil {
			return nil, err
		}
		r.layout, r.union, r.tail = layoutChunks, c.format(), c.table()
	case tail > 0:
		r.layout, r.tail = layoutInline, make([]byte, tail)
		if _, err := io.ReadFull(data, r.tail); err != nil {
			return nil, short(err)
		}
		w.alloc.next = c.start + size/BlockSize
		if size >= BlockSize {
			r.union = uint32(c.start)
		}
	default:
		r.union = uint32(c.start)
	}
	return w.finish(r)
}

// short makes the end of data before its size an error.
func short(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read the file's data: %w", err)
}

// chunkSize is the size of the chunks that a file is divided into to leave
// out holes: a power of two, at least pieceSize. 0: not divided.
func chunkSize(size int64) int64 {
	if size < 2*pieceSize {
		return 0
	}
	chunk := int64(pieceSize)
	for size/chunk >= maxChunks && chunk < BlockSize<<chunkBitsMask {
		chunk *= 2
	}
	return chunk
}

// chunks writes the data of one file. Chunks with data get blocks one after
// the other, so that those of a file without holes adjoin.
type chunks struct {
	w     *Writer
	total int64    // size of the file
	size  int64    // of a chunk; 0: the file is one
	start int64    // the first block of the file
	addrs []uint32 // of the chunks so far; nullAddr: no data so far
	pos   int64    // how far the data has been read
}

// copy reads data up to the file's offset end.
func (c *chunks) copy(data io.Reader, end int64) error {
	for c.pos < end {
		p, err := c.w.out.room(int(min(pieceSize, end-c.pos)))
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(data, p); err != nil {
			return short(err)
		}
		if err := c.piece(p); err != nil {
			return err
		}
		c.pos += int64(len(p))
	}
	return nil
}

// piece writes data that adjoins that of before and lies in one chunk. The
// image is new: what is not written there is zero.
func (c *chunks) piece(p []byte) error {
	index, within := int64(0), c.pos
	if c.size > 0 {
		index, within = c.pos/c.size, c.pos%c.size
	}
	if index == int64(len(c.addrs)) {
		c.addrs = append(c.addrs, nullAddr)
	}
	if c.size > 0 && isZero(p) {
		return nil
	}
	addr := &c.addrs[index]
	if *addr == nullAddr {
		length := c.total
		if c.size > 0 {
			length = min(c.size, c.total-index*c.size)
		}
		*addr = uint32(c.w.alloc.next)
		c.w.alloc.next += roundUp(length, BlockSize) / BlockSize
	}
	return c.w.out.commit(p, int64(*addr)*BlockSize+within)
}

// holes tells whether a chunk has no data.
func (c *chunks) holes() bool {
	for _, addr := range c.addrs {
		if addr == nullAddr {
			return true
		}
	}
	return false
}

// format describes the chunks, for the inode.
func (c *chunks) format() uint32 {
	bits := uint32(0)
	for int64(BlockSize)<<bits < c.size {
		bits++
	}
	return bits
}

// table is what follows the inode.
func (c *chunks) table() []byte {
	b := make([]byte, 0, 4*len(c.addrs))
	for _, addr := range c.addrs {
		b = le.AppendUint32(b, addr)
	}
	return b
}
