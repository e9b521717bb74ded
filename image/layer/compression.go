package layer

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

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
	src := &source{r: blob}
	r := bufio.NewReaderSize(src, 128<<10)
	head, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		// Reads further members too; what else follows is an error.
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, decodeError(src, err)
		}
		return &decoder{src, z}, func() { z.Close() }, nil
	case bytes.Equal(head, zstdMagic), len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], skipMagic):
		memory := uint64(lim.DecoderMemory)
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxMemory(memory), zstd.WithDecoderMaxWindow(max(memory, zstd.MinWindowSize)))
		if err != nil {
			return nil, nil, decodeError(src, err)
		}
		return &decoder{src, z}, z.Close, nil
	}
	return r, func() {}, nil
}

// decoder is a stream whose errors say whose they are.
type decoder struct {
	src *source
	r   io.Reader
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	if err != nil && err != io.EOF {
		err = decodeError(d.src, err)
	}
	return n, err
}

// decodeError is what an error of decompressing a blob means.
func decodeError(blob *source, err error) error {
	switch {
	case blob.err != nil:
		return blob.err
	case errors.Is(err, zstd.ErrWindowSizeExceeded), errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return fmt.Errorf("memory to decompress it: %w: %w", ErrLimit, err)
	}
	return fmt.Errorf("decompress: %w: %w", ErrInvalid, err)
}

// source remembers why reading has failed. What reads from it does not always
// say so, and does not name all errors of its own.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}
