package erofs

import (
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/sys/unix"
)

// ErrTooLarge says that the format cannot hold something of that size.
var ErrTooLarge = errors.New("too large for an image")

// inlineMax is up to which length the end of a file or folder that does not
// fill a block is put behind its inode. That saves a block and, for a small
// file, reading one; longer ends would save little and spread the inodes.
const inlineMax = BlockSize / 2

// File is what an image is written to: a new, empty file.
type File interface {
	io.WriterAt
	Truncate(size int64) error
}

// Writer writes an image. Its methods must not be called at the same time.
// After an error the image cannot be completed.
//
// Close leaves a complete image in the file, but neither closes nor syncs it:
// after a crash it may be there in part, and with its superblock. Who needs it
// to last calls fdatasync before giving it its name.
type Writer struct {
	file   File
	out    output
	alloc  allocator
	runBuf []byte // the blocks of alloc.run
	super  superblock
	timed  bool   // super.time is set
	number uint32 // of the last inode that was written
}

// NewWriter begins an image.
func NewWriter(f File) *Writer {
	return &Writer{
		file:   f,
		out:    output{w: f},
		alloc:  allocator{next: 1}, // block 0 has the superblock and the root folder
		runBuf: make([]byte, runBlocks*BlockSize),
		super:  superblock{compat: compatChecksum | compatMtime},
	}
}

// Size is how long the image has become so far, in bytes.
func (w *Writer) Size() int64 { return w.alloc.next * BlockSize }

// record is an inode with all that follows it.
type record struct {
	Attr
	kind     uint16
	layout   uint16
	extended bool // asked for; otherwise where it must be
	links    uint32
	size     int64
	union    uint32 // address of the data, device number, or format of the chunks
	xattrs   []byte
	tail     []byte // the last bytes of the data, or the table of chunks
}

// compact tells whether the short form of an inode has room for this one.
func (w *Writer) compact(r *record) bool {
	return !r.extended && r.size <= math.MaxUint32 && r.links <= math.MaxUint16 &&
		r.UID <= math.MaxUint16 && r.GID <= math.MaxUint16 &&
		r.Sec == w.super.time && r.Nsec == w.super.timeNsec
}

// length is how many bytes the inode and its attributes take.
func (w *Writer) length(r *record) int {
	if w.compact(r) {
		return compactSize + len(r.xattrs)
	}
	return extendedSize + len(r.xattrs)
}

// inlines tells whether that many last bytes go behind the inode.
func (w *Writer) inlines(r *record, tail int) bool {
	return tail > 0 && tail <= inlineMax && w.length(r)+tail <= BlockSize
}

// encode makes the bytes of the record, and numbers it, for programs that
// cannot take its nid, of 64 bits.
func (w *Writer) encode(r *record) []byte {
	w.number++
	mode := r.kind | r.Mode&0o7777
	b := make([]byte, 0, w.length(r)+len(r.tail))
	if w.compact(r) {
		b = le.AppendUint16(b, r.layout<<1)
		b = le.AppendUint16(b, uint16(xattrCount(len(r.xattrs))))
		b = le.AppendUint16(b, mode)
		b = le.AppendUint16(b, uint16(r.links))
		b = le.AppendUint32(b, uint32(r.size))
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, r.union)
		b = le.AppendUint32(b, w.number)
		b = le.AppendUint16(b, uint16(r.UID))
		b = le.AppendUint16(b, uint16(r.GID))
		b = le.AppendUint32(b, 0)
	} else {
		b = le.AppendUint16(b, r.layout<<1|1)
		b = le.AppendUint16(b, uint16(xattrCount(len(r.xattrs))))
		b = le.AppendUint16(b, mode)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint64(b, uint64(r.size))
		b = le.AppendUint32(b, r.union)
		b = le.AppendUint32(b, w.number)
		b = le.AppendUint32(b, r.UID)
		b = le.AppendUint32(b, r.GID)
		b = le.AppendUint64(b, uint64(r.Sec))
		b = le.AppendUint32(b, r.Nsec)
		b = le.AppendUint32(b, r.links)
		b = append(b, make([]byte, 16)...)
	}
	return append(append(b, r.xattrs...), r.tail...)
}

// put writes a record to its place.
func (w *Writer) put(r *record) (nid uint64, err error) {
	if r.tail != nil && r.layout == layoutChunks {
		w.super.incompat |= incompatChunked
	}
	b := w.encode(r)
	before := w.alloc
	offset, fresh := w.alloc.place(len(b))
	if w.alloc.next > maxBlocks {
		return 0, fmt.Errorf("image of %d blocks: %w", w.alloc.next, ErrTooLarge)
	}
	switch {
	case len(b) > BlockSize:
		err = w.out.write(b, offset)
	default:
		if fresh {
			err = w.flushRun(&before)
		}
		copy(w.runBuf[offset-w.alloc.run*BlockSize:], b)
	}
	return uint64(offset) / slotSize, err
}

// flushRun writes the blocks of inodes of a state of the allocator.
func (w *Writer) flushRun(a *allocator) error {
	blocks := runBlocks
	for blocks > 0 && a.used[blocks-1] == 0 {
		blocks--
	}
	if a.run == 0 || blocks == 0 {
		return nil
	}
	if _, err := w.file.WriteAt(w.runBuf[:blocks*BlockSize], a.run*BlockSize); err != nil {
		return fmt.Errorf("write inodes: %w", err)
	}
	clear(w.runBuf)
	return nil
}

// begin makes the record of a new inode.
func (w *Writer) begin(a Attr, kind uint16) (*record, error) {
	if a.Nsec >= 1e9 {
		return nil, fmt.Errorf("time of modification: %d ns, a second has 10⁹", a.Nsec)
	}
	if !w.timed {
		// Inodes of this time can be compact: all of them in an image that
		// was made reproducible by giving all files one time.
		w.timed, w.super.time, w.super.timeNsec = true, a.Sec, a.Nsec
	}
	xattrs, err := encodeXattrs(a.Xattrs)
	return &record{Attr: a, kind: kind, links: 1, union: nullAddr, xattrs: xattrs}, err
}

// finish writes a record that is no folder's.
func (w *Writer) finish(r *record) (*Inode, error) {
	extended := !w.compact(r)
	nid, err := w.put(r)
	if err != nil {
		return nil, err
	}
	return &Inode{nid: nid, kind: r.kind, extended: extended}, nil
}

// Symlink writes a symbolic link.
//
// Errors: ErrTooLarge where the target has more than MaxSymlink bytes, ErrXattr.
func (w *Writer) Symlink(a Attr, target string) (*Inode, error) {
	if target == "" || len(target) > MaxSymlink {
		return nil, fmt.Errorf("symbolic link of %d bytes: %w", len(target), ErrTooLarge)
	}
	r, err := w.begin(a, unix.S_IFLNK)
	if err != nil {
		return nil, err
	}
	r.size = int64(len(target))
	if w.inlines(r, len(target)) {
		r.layout, r.tail = layoutInline, []byte(target)
		return w.finish(r)
	}
	r.union = uint32(w.alloc.next)
	if err := w.out.write([]byte(target), w.alloc.next*BlockSize); err != nil {
		return nil, err
	}
	w.alloc.next++
	return w.finish(r)
}

// Node writes a device, pipe or socket: the type is S_IFCHR, S_IFBLK, S_IFIFO
// or S_IFSOCK. Only devices have numbers, of 12 and of 20 bits.
//
// Errors: ErrTooLarge, ErrXattr.
func (w *Writer) Node(a Attr, kind uint16, major, minor uint32) (*Inode, error) {
	if major >= 1<<12 || minor >= 1<<20 {
		return nil, fmt.Errorf("device number %d:%d: %w", major, minor, ErrTooLarge)
	}
	switch kind {
	case unix.S_IFCHR, unix.S_IFBLK:
	case unix.S_IFIFO, unix.S_IFSOCK:
		major, minor = 0, 0
	default:
		return nil, fmt.Errorf("type %#o: not that of a device, pipe or socket", kind)
	}
	r, err := w.begin(a, kind)
	if err != nil {
		return nil, err
	}
	r.union = encodeDevice(major, minor)
	// There may be any number of links to the one whiteout of a layer.
	r.extended = major == 0 && minor == 0
	return w.finish(r)
}
