package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

// formatVersion goes into the identity of images: the same layers make other
// images once it is another.
const formatVersion = "vc-runtime layer 1"

// Blob is a layer as it comes from a registry.
type Blob struct {
	io.Reader        // from its beginning to its end; not closed
	MediaType string // KnownMediaType
}

// Result says what has become of the layers of an image.
type Result struct {
	// DiffIDs are the digests of the uncompressed streams, by layer.
	DiffIDs []digest.Digest
	Size    int64  // of the image, in bytes
	Inodes  uint64 // in it
	// OpaqueRoot says that nothing of the layers below shows: overlay knows
	// no opaque root, so that they have to be left out.
	OpaqueRoot bool
	// Implied are the folders, from the root, that the layer has something in
	// without naming them. They are made as 0755 root; see Inherit.
	Implied []string
	// DroppedXattrs is how many extended attributes the format cannot hold.
	DroppedXattrs int
}

// Unpack writes the erofs image of a layer that lies on others, with its
// whiteouts, into dst, which must be empty. The lowest layer of a container's
// image is for Merge: where nothing lies below, an overlay would list whiteouts.
//
// It reads the blob once, to its end. That its digest is the right one, and the
// diff id, is for the caller to check. The same blob always makes the same
// image.
//
// When it returns without an error the image is complete, but not synced (see
// erofs.Writer); after an error dst has part of one, without a superblock.
//
// Errors: ErrMediaType, ErrInvalid, ErrLimit, those of blob and dst, the cause
// of ctx' end. A read of the blob is not interrupted.
func Unpack(ctx context.Context, blob Blob, dst erofs.File, lim Limits) (Result, error) {
	u := newUnpacker(dst, lim)
	t, err := u.layer(ctx, blob)
	if err != nil {
		return Result{}, err
	}
	t.finish()
	u.res.OpaqueRoot = t.opaque[t.root]
	if u.res.Implied, err = t.impliedPaths(); err != nil {
		return Result{}, err
	}
	return u.close(t)
}

// Merge writes one image of the lowest layers of a container's image, the
// lowest first: what overlay would show of them. With one layer that is the
// same as Unpack, but for its whiteouts, which hide nothing there. Otherwise
// it is like Unpack.
func Merge(ctx context.Context, blobs []Blob, dst erofs.File, lim Limits) (Result, error) {
	u := newUnpacker(dst, lim)
	merged := newTree(u.budget)
	for n, blob := range blobs {
		t, err := u.layer(ctx, blob)
		if err != nil {
			return Result{}, fmt.Errorf("layer %d: %w", n+1, err)
		}
		merged.overlay(t)
	}
	return u.close(merged)
}

// unpacker makes one image.
type unpacker struct {
	applier
	res Result
}

func newUnpacker(dst erofs.File, lim Limits) *unpacker {
	return &unpacker{applier: applier{budget: newBudget(lim), image: erofs.NewWriter(dst)}}
}

// layer applies one layer.
func (u *unpacker) layer(ctx context.Context, blob Blob) (*tree, error) {
	s := newStream(ctx, blob, blob.MediaType, u.budget.lim)
	t, err := u.apply(ctx, s)
	if err == nil {
		// What follows the archive is part of the diff id.
		_, err = io.Copy(io.Discard, s)
	}
	s.Close()
	if err != nil {
		return nil, err
	}
	u.res.DiffIDs = append(u.res.DiffIDs, digest.NewDigest(digest.SHA256, s.sum))
	return t, nil
}

// close completes the image.
func (u *unpacker) close(t *tree) (Result, error) {
	stat, err := u.image.Close(t.root, u.identity())
	if errors.Is(err, erofs.ErrTooLarge) || errors.Is(err, erofs.ErrXattr) {
		err = fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	u.res.Size, u.res.Inodes, u.res.DroppedXattrs = stat.Size, stat.Inodes, u.dropped
	return u.res, err
}

// identity is the UUID of the file system: a hash of the diff ids, in the form
// of a version 8 UUID.
func (u *unpacker) identity() (id [16]byte) {
	h := sha256.New()
	h.Write([]byte(formatVersion))
	for _, d := range u.res.DiffIDs {
		h.Write([]byte("\n" + d))
	}
	copy(id[:], h.Sum(nil))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}
