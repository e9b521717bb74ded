package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// mediaTypes are those of layers. The compression that they name is not relied
// on.
var mediaTypes = []string{
	"application/vnd.oci.image.layer.v1.tar",
	"application/vnd.oci.image.layer.v1.tar+gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd",
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip",
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	"application/vnd.docker.container.image.rootfs.diff+x-gtar",
	"application/vnd.docker.container.image.rootfs.diff+x-gtar.gz",
}

// KnownMediaType tells whether blobs of that media type are layers that can
// be unpacked.
func KnownMediaType(mediaType string) bool { return slices.Contains(mediaTypes, mediaType) }

var (
	gzipMagic = []byte{0x1f, 0x8b, 0x08}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	skipMagic = []byte{0x2a, 0x4d, 0x18} // the end of the magic numbers of zstd's skippable frames
)

// decompress returns the uncompressed stream of a blob and what frees its
// memory. The compression is found out from the first bytes, as containerd
// does it, since there are blobs whose media type names another.
//
// Errors, also those of reading: ErrMediaType, ErrInvalid, ErrLimit, or that
// of the blob.
func decompress(blob io.Reader, mediaType string, lim Limits) (io.Reader, func(), error) {
	if !KnownMediaType(mediaType) {
		return nil, nil, fmt.Errorf("%q, want one of %s: %w", mediaType, strings.Join(mediaTypes, ", "), ErrMediaType)
	}
	r := bufio.NewReaderSize(blob, 128<<10)
	head, err := r.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		// Reads further members too; what else follows is an error.
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, decodeError(err)
		}
		return decoded{z}, func() { z.Close() }, nil
	case bytes.Equal(head, zstdMagic), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], skipMagic):
		memory := uint64(lim.DecoderMemory)
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(memory), zstd.WithDecoderMaxWindow(max(memory, zstd.MinWindowSize)))
		if err != nil {
			return nil, nil, decodeError(err)
		}
		return decoded{z}, z.Close, nil
	}
	return r, func() {}, nil
}

// decoded is a stream whose errors say what they are of.
type decoded struct{ r io.Reader }

func (d decoded) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	return n, decodeError(err)
}

// decodeError tells the errors of damaged blobs from those of reading them.
func decodeError(err error) error {
	var corrupt flate.CorruptInputError
	switch {
	case err == nil, err == io.EOF:
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("memory to decompress it: %w: %w", ErrLimit, err)
	case errors.Is(err, gzip.ErrHeader), errors.Is(err, gzip.ErrChecksum), errors.As(err, &corrupt),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, zstd.ErrMagicMismatch), errors.Is(err, zstd.ErrCRCMismatch),
		errors.Is(err, zstd.ErrReservedBlockType), errors.Is(err, zstd.ErrUnexpectedBlockSize):
		return fmt.Errorf("decompress: %w: %w", ErrInvalid, err)
	}
	return fmt.Errorf("decompress: %w", err)
}
