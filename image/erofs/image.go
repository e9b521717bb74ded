package erofs

import (
	"fmt"
	"io"
	"iter"

	"golang.org/x/sys/unix"
)

// Image is a complete image, for reading. Its methods may be called at the
// same time. They take nothing in the image on trust; all of their errors are
// ErrCorrupt or those of reading it.
type Image struct {
	r     io.ReaderAt
	size  int64
	super superblock
}

// Info describes an inode.
type Info struct {
	Attr         // Xattrs are those of Image.Xattrs
	NID   uint64 // the inode's place and name
	Type  uint16 // S_IFREG …
	Links uint32
	Size  int64 // of its data, in bytes
	Major uint32
	Minor uint32 // device number

	layout uint16
	union  uint32
	xattrs int   // how many bytes they take
	offset int64 // where the inode lies
	length int64 // of it, without what follows
}

// Dirent is a name in a folder.
type Dirent struct {
	Name string
	NID  uint64
	Type uint16 // S_IFREG …
}

// Extent is a part of a file's data.
type Extent struct {
	Logical  int64 // where in the file, in bytes
	Physical int64 // where in the image; -1: a hole
	Length   int64
}

// Open reads the superblock of an image of that size, in bytes.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	m := &Image{r: r, size: size}
	block := make([]byte, BlockSize)
	if err := m.read(block, 0); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	if err := m.super.decode(block); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	if want := int64(m.super.blocks) * BlockSize; want > size {
		return nil, fmt.Errorf("image of %d bytes has only %d: %w", want, size, ErrCorrupt)
	}
	m.size = int64(m.super.blocks) * BlockSize
	return m, nil
}

// Root is the inode of the root folder.
func (m *Image) Root() uint64 { return uint64(m.super.rootNID) }

// UUID is the identity that Writer.Close was given.
func (m *Image) UUID() [16]byte { return m.super.uuid }

// Size is that of the image, in bytes.
func (m *Image) Size() int64 { return m.size }

// read fills p from that place of the image.
func (m *Image) read(p []byte, offset int64) error {
	if offset < 0 || offset > m.size-int64(len(p)) {
		return fmt.Errorf("%d bytes at %d of %d: %w", len(p), offset, m.size, ErrCorrupt)
	}
	if n, err := m.r.ReadAt(p, offset); n < len(p) {
		return fmt.Errorf("read the image: %w", err)
	}
	return nil
}

// offset is where an inode lies.
func (m *Image) offset(nid uint64) int64 {
	if nid > uint64(m.size)/slotSize {
		return m.size // which nothing can be read from
	}
	return int64(m.super.metaBlock)*BlockSize + int64(nid)*slotSize
}

// Info reads an inode.
func (m *Image) Info(nid uint64) (Info, error) {
	var raw [extendedSize]byte
	at := m.offset(nid)
	if err := m.read(raw[:compactSize], at); err != nil {
		return Info{}, fmt.Errorf("inode %d: %w", nid, err)
	}
	b := raw[:]
	format := le.Uint16(b)
	i := Info{NID: nid, offset: at, layout: format >> 1, xattrs: xattrSize(le.Uint16(b[2:])), length: compactSize}
	mode := le.Uint16(b[4:])
	i.Mode, i.Type = mode&^unix.S_IFMT, mode&unix.S_IFMT
	if format&1 == 0 {
		i.Links, i.Size, i.union = uint32(le.Uint16(b[6:])), int64(le.Uint32(b[8:])), le.Uint32(b[16:])
		i.UID, i.GID = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		i.Sec, i.Nsec = m.super.time, m.super.timeNsec
	} else {
		if err := m.read(b, at); err != nil {
			return Info{}, fmt.Errorf("inode %d: %w", nid, err)
		}
		i.length = extendedSize
		i.Size, i.union = int64(le.Uint64(b[8:])), le.Uint32(b[16:])
		i.UID, i.GID = le.Uint32(b[24:]), le.Uint32(b[28:])
		i.Sec, i.Nsec, i.Links = int64(le.Uint64(b[32:])), le.Uint32(b[40:]), le.Uint32(b[44:])
	}
	if i.Type == unix.S_IFCHR || i.Type == unix.S_IFBLK {
		i.Major, i.Minor = decodeDevice(i.union)
	}
	return i, i.check()
}

// check looks at what a single inode can be wrong in.
func (i *Info) check() error {
	_, known := fileTypes[i.Type]
	switch {
	case !known:
		return fmt.Errorf("inode %d has type %#o: %w", i.NID, i.Type, ErrCorrupt)
	case i.layout != layoutPlain && i.layout != layoutInline && i.layout != layoutChunks:
		return fmt.Errorf("inode %d has layout %d: %w", i.NID, i.layout, ErrCorrupt)
	case i.Size < 0 || i.Size > maxBlocks*BlockSize:
		return fmt.Errorf("inode %d has %d bytes: %w", i.NID, i.Size, ErrCorrupt)
	case i.Nsec >= 1e9:
		return fmt.Errorf("inode %d has a time with %d ns: %w", i.NID, i.Nsec, ErrCorrupt)
	case i.layout == layoutChunks && (i.Type != unix.S_IFREG || i.union > chunkBitsMask):
		return fmt.Errorf("inode %d has chunks of format %#x: %w", i.NID, i.union, ErrCorrupt)
	}
	switch i.Type {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
	default:
		if i.Size != 0 || i.layout != layoutPlain {
			return fmt.Errorf("inode %d, a device or pipe, has data: %w", i.NID, ErrCorrupt)
		}
	}
	return nil
}

// after is where what follows the inode begins: the end of its data or the
// table of its chunks.
func (m *Image) after(i Info) int64 { return i.offset + i.length + int64(i.xattrs) }

// Xattrs reads the extended attributes of an inode.
func (m *Image) Xattrs(i Info) ([]Xattr, error) {
	b := make([]byte, i.xattrs)
	err := m.read(b, i.offset+i.length)
	if err == nil {
		i.Xattrs, err = decodeXattrs(b)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", i.NID, err)
	}
	return i.Xattrs, nil
}

// Extents lists the parts of the data of a file, folder or symbolic link, in
// their order. Together they are as long as the data.
func (m *Image) Extents(i Info) iter.Seq2[Extent, error] {
	return func(yield func(Extent, error) bool) {
		for at := int64(0); at < i.Size; {
			e, err := m.extent(i, at)
			if !yield(e, err) || err != nil {
				return
			}
			at += e.Length
		}
	}
}

// extent finds the part of the data that begins before or at the offset, and
// returns it from there on.
func (m *Image) extent(i Info, at int64) (e Extent, err error) {
	inline := int64(0)
	if i.layout == layoutInline {
		inline = i.Size % BlockSize
	}
	switch {
	case i.layout == layoutChunks:
		if e, err = m.chunk(i, at); err != nil {
			return e, fmt.Errorf("inode %d: chunks: %w", i.NID, err)
		}
	case at < i.Size-inline:
		e = Extent{at, int64(i.union)*BlockSize + at, i.Size - inline - at}
	default:
		e = Extent{at, m.after(i) + at - (i.Size - inline), i.Size - at}
		if e.Physical/BlockSize != (e.Physical+e.Length-1)/BlockSize {
			return e, fmt.Errorf("inode %d: inline data beyond its block: %w", i.NID, ErrCorrupt)
		}
	}
	if e.Physical >= 0 && e.Length > m.size-e.Physical {
		return e, fmt.Errorf("inode %d: %d bytes at %d of %d: %w", i.NID, e.Length, e.Physical, m.size, ErrCorrupt)
	}
	return e, nil
}

// chunk is extent for a file in chunks.
func (m *Image) chunk(i Info, at int64) (Extent, error) {
	size := int64(BlockSize) << i.union
	n, within := at/size, at%size
	var addr [4]byte
	if err := m.read(addr[:], roundUp(m.after(i), 4)+n*4); err != nil {
		return Extent{}, err
	}
	e := Extent{at, -1, min(size-within, i.Size-at)}
	if a := le.Uint32(addr[:]); a != nullAddr {
		e.Physical = int64(a)*BlockSize + within
	}
	return e, nil
}

// Data reads the data of a file, folder or symbolic link.
func (m *Image) Data(i Info) io.Reader { return &dataReader{m: m, info: i} }

type dataReader struct {
	m    *Image
	info Info
	at   int64
}

func (d *dataReader) Read(p []byte) (int, error) {
	if d.at == d.info.Size {
		return 0, io.EOF
	}
	e, err := d.m.extent(d.info, d.at)
	if err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), e.Length)]
	if e.Physical < 0 {
		clear(p)
	} else if err := d.m.read(p, e.Physical); err != nil {
		return 0, err
	}
	d.at += int64(len(p))
	return len(p), nil
}

// Readlink reads the target of a symbolic link.
func (m *Image) Readlink(i Info) (string, error) {
	if i.Type != unix.S_IFLNK || i.Size == 0 || i.Size > MaxSymlink {
		return "", fmt.Errorf("inode %d is no symbolic link: type %#o, %d bytes: %w", i.NID, i.Type, i.Size, ErrCorrupt)
	}
	b, err := io.ReadAll(m.Data(i))
	return string(b), err
}

// ReaderWriterAt is an image that is changed: an *os.File.
type ReaderWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// SetAttr changes the attributes of an inode in place, but for the extended
// ones: that of a folder that was Changeable. It is not atomic.
//
// Errors: ErrCorrupt where the inode has no room for them.
func SetAttr(f ReaderWriterAt, i Info, a Attr) error {
	if i.length != extendedSize || a.Nsec >= 1e9 {
		return fmt.Errorf("inode %d cannot be changed: %w", i.NID, ErrCorrupt)
	}
	// The root shares its block with the superblock, which has a checksum.
	at := i.offset &^ (BlockSize - 1)
	block := make([]byte, BlockSize)
	if n, err := f.ReadAt(block, at); n < len(block) {
		return fmt.Errorf("read inode %d: %w", i.NID, err)
	}
	b := block[i.offset-at:]
	if len(b) < extendedSize {
		return fmt.Errorf("inode %d crosses a block: %w", i.NID, ErrCorrupt)
	}
	le.PutUint16(b[4:], i.Type|a.Mode&^unix.S_IFMT)
	le.PutUint32(b[24:], a.UID)
	le.PutUint32(b[28:], a.GID)
	le.PutUint64(b[32:], uint64(a.Sec))
	le.PutUint32(b[40:], a.Nsec)
	if at == 0 {
		le.PutUint32(block[superOffset+4:], checksum(block))
	}
	if _, err := f.WriteAt(block, at); err != nil {
		return fmt.Errorf("write inode %d: %w", i.NID, err)
	}
	return nil
}
