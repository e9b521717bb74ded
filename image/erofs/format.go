package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// BlockSize is the size of a block of our images, in bytes.
const BlockSize = 1 << blockBits

const (
	blockBits   = 12
	superOffset = 1024
	superSize   = 128
	superMagic  = 0xe0f5e1e2

	slotBits = 5 // an inode is named by its place: nid = offset / 32
	slotSize = 1 << slotBits

	compactSize  = 32
	extendedSize = 64
	direntSize   = 12

	xattrHeaderSize = 12
	xattrEntrySize  = 4
)

// Bits of the superblock's features.
const (
	compatChecksum  = 0x1
	compatMtime     = 0x2 // the times of inodes are those of modification
	incompatChunked = 0x4
)

// Layouts of an inode's data: bits 1 to 3 of its format; bit 0 says whether
// the inode is extended.
const (
	layoutPlain  = 0 // blocks from an address on
	layoutInline = 2 // the same, but for the last one's bytes, which follow the inode
	layoutChunks = 4 // a table of addresses follows the inode
)

const (
	nullAddr = 0xffffffff // no block; in a table of chunks: a hole

	chunkBitsMask = 0x1f // of the format of chunks: their size in blocks, a power of two
)

// ErrCorrupt says that an image is damaged, or not one that a Writer makes.
var ErrCorrupt = errors.New("corrupt erofs image")

// Limits of the format and of the kernel's interface to it.
const (
	MaxName    = 255   // bytes of a name in a folder
	MaxSymlink = 4095  // bytes of a symlink's target
	MaxXattr   = 65535 // bytes of an extended attribute's value
	// maxBlocks is how many blocks an image may have: their addresses have 32
	// bits, and the last one means none.
	maxBlocks = 1<<32 - 1
)

// xattrPrefixes are the prefixes of extended attributes' names that the format
// knows, by their index.
var xattrPrefixes = []struct {
	prefix string
	index  uint8
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

// fileTypes are the types of dirents, by that of the mode.
var fileTypes = map[uint16]uint8{
	unix.S_IFREG:  1,
	unix.S_IFDIR:  2,
	unix.S_IFCHR:  3,
	unix.S_IFBLK:  4,
	unix.S_IFIFO:  5,
	unix.S_IFSOCK: 6,
	unix.S_IFLNK:  7,
}

// typeOf is fileTypes the other way round.
func typeOf(fileType uint8) uint16 {
	for kind, t := range fileTypes {
		if t == fileType {
			return kind
		}
	}
	return 0
}

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// superblock is the part of struct erofs_super_block that we use.
type superblock struct {
	compat, incompat uint32
	rootNID          uint16
	inodes           uint64
	time             int64 // of compact inodes, in seconds
	timeNsec         uint32
	blocks           uint32
	metaBlock        uint32
	xattrBlock       uint32
	uuid             [16]byte
}

// encode writes the superblock into the first block of an image, and the
// checksum of that block, which must be complete otherwise.
func (s *superblock) encode(block []byte) {
	b := block[superOffset:]
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[4:], 0)
	le.PutUint32(b[8:], s.compat)
	b[12] = blockBits
	le.PutUint16(b[14:], s.rootNID)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint64(b[24:], uint64(s.time))
	le.PutUint32(b[32:], s.timeNsec)
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.metaBlock)
	le.PutUint32(b[44:], s.xattrBlock)
	copy(b[48:64], s.uuid[:])
	le.PutUint32(b[80:], s.incompat)
	le.PutUint32(b[4:], checksum(block))
}

// decode reads the superblock of an image from its first block.
func (s *superblock) decode(block []byte) error {
	b := block[superOffset:]
	if magic := le.Uint32(b); magic != superMagic {
		return fmt.Errorf("magic number %#x, want %#x: %w", magic, superMagic, ErrCorrupt)
	}
	*s = superblock{
		compat: le.Uint32(b[8:]), incompat: le.Uint32(b[80:]), rootNID: le.Uint16(b[14:]),
		inodes: le.Uint64(b[16:]), time: int64(le.Uint64(b[24:])), timeNsec: le.Uint32(b[32:]),
		blocks: le.Uint32(b[36:]), metaBlock: le.Uint32(b[40:]), xattrBlock: le.Uint32(b[44:]), uuid: [16]byte(b[48:64]),
	}
	switch {
	case b[12] != blockBits:
		return fmt.Errorf("blocks of 1<<%d bytes, want 1<<%d: %w", b[12], blockBits, ErrCorrupt)
	case s.incompat&^incompatChunked != 0:
		return fmt.Errorf("features %#x, want at most %#x: %w", s.incompat, incompatChunked, ErrCorrupt)
	case s.compat&compatChecksum == 0 || le.Uint32(b[4:]) != checksum(block):
		return fmt.Errorf("checksum of the superblock: %w", ErrCorrupt)
	}
	return nil
}

// checksum is that of the superblock: CRC-32C of the rest of its block with
// the checksum's own field zero, and without the usual inversion at the end.
func checksum(block []byte) uint32 {
	var zero [4]byte
	sum := crc32.Update(0, castagnoli, block[superOffset:superOffset+4])
	sum = crc32.Update(sum, castagnoli, zero[:])
	return ^crc32.Update(sum, castagnoli, block[superOffset+8:BlockSize])
}

// encodeDevice packs a device number as the kernel's new_encode_dev does.
func encodeDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func decodeDevice(d uint32) (major, minor uint32) {
	return d & 0xfff00 >> 8, d&0xff | d>>12&0xfff00
}

// roundUp rounds n up to a multiple of unit, a power of two.
func roundUp[T int | int64 | uint64](n, unit T) T {
	return (n + unit - 1) &^ (unit - 1)
}
