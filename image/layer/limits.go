package layer

import (
	"errors"
	"fmt"
)

// Errors of layers.
var (
	// ErrInvalid says that a layer is damaged, or asks for what no layer may.
	ErrInvalid = errors.New("invalid layer")
	// ErrLimit says that a layer is larger than the limits allow.
	ErrLimit = errors.New("layer exceeds a limit")
	// ErrMediaType says that a blob is no layer that can be read.
	ErrMediaType = errors.New("unknown media type of a layer")
)

// Limits are what a layer may cost. What is zero has the value of
// DefaultLimits.
type Limits struct {
	// Bytes is how long the uncompressed stream may be, and the data of all
	// files: a sparse file counts with its holes.
	Bytes int64
	// Ratio is how many times longer than the blob the uncompressed stream
	// may be, once it is longer than RatioFloor: short streams of zeroes
	// compress very well.
	Ratio, RatioFloor int64
	// Inodes is how many entries the stream may have, and how many inodes the
	// image.
	Inodes int64
	// Depth is how many folders may lie in each other.
	Depth int
	// Metadata is how many bytes of names, targets of symbolic links and
	// extended attributes of folders are kept in memory.
	Metadata int64
	// DecoderMemory is how much memory a zstd stream may ask for, in bytes.
	DecoderMemory int64
}

// DefaultLimits are generous: no image that is in use comes near them.
func DefaultLimits() Limits {
	return Limits{
		Bytes:         256 << 30,
		Ratio:         200,
		RatioFloor:    256 << 20,
		Inodes:        2_000_000,
		Depth:         512,
		Metadata:      256 << 20,
		DecoderMemory: 128 << 20,
	}
}

// complete replaces what is zero.
func (l Limits) complete() Limits {
	d := DefaultLimits()
	set(&l.Bytes, d.Bytes)
	set(&l.Ratio, d.Ratio)
	set(&l.RatioFloor, d.RatioFloor)
	set(&l.Inodes, d.Inodes)
	set(&l.Depth, d.Depth)
	set(&l.Metadata, d.Metadata)
	set(&l.DecoderMemory, d.DecoderMemory)
	return l
}

func set[T int | int64](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// budget is what may still be spent on an image.
type budget struct {
	lim                     Limits
	inodes, bytes, metadata int64
}

func newBudget(lim Limits) *budget {
	lim = lim.complete()
	return &budget{lim: lim, inodes: lim.Inodes, bytes: lim.Bytes, metadata: lim.Metadata}
}

// inode accounts for an entry, or for a folder that no entry names.
func (b *budget) inode() error {
	if b.inodes--; b.inodes < 0 {
		return exceeded("entries", b.lim.Inodes)
	}
	return nil
}

// data accounts for a file's data.
func (b *budget) data(n int64) error {
	if n > b.bytes {
		return exceeded("bytes of files", b.lim.Bytes)
	}
	b.bytes -= n
	return nil
}

// keep accounts for bytes that stay in memory.
func (b *budget) keep(n int) error {
	if b.metadata -= int64(n); b.metadata < 0 {
		return exceeded("bytes of names and attributes", b.lim.Metadata)
	}
	return nil
}

// exceeded is the error of a limit.
func exceeded(what string, limit int64) error {
	return fmt.Errorf("more than %d %s: %w", limit, what, ErrLimit)
}
