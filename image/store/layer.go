package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
)

// What is in the folder of a layer.
const (
	layerFile = "layer.erofs"
	layerMeta = "meta.json"
)

// LayerSpec says what a layer is to be made of.
type LayerSpec struct {
	// ID is the chain id of a layer, or another digest for one that several
	// were merged into.
	ID digest.Digest `json:"id"`
	// Parent is the ID of the layer below, "" for the lowest: folders that a
	// layer has something in without naming them look as they do below.
	Parent digest.Digest `json:"parent,omitempty"`
	// DiffIDs are those of the layer, or of all that are merged, lowest first.
	DiffIDs []digest.Digest `json:"diffIDs"`
	// Blobs are what the layer is made of, as the DiffIDs.
	Blobs []Descriptor `json:"blobs"`
}

// LayerInfo is what a layer's meta.json says.
type LayerInfo struct {
	Version int `json:"version"`
	LayerSpec
	// Size of the file system image in bytes.
	Size   int64  `json:"size"`
	Inodes uint64 `json:"inodes"`
	// OpaqueRoot says that nothing of the layers below shows. Overlay knows no
	// opaque root, so that they have to be left out.
	OpaqueRoot bool `json:"opaqueRoot,omitempty"`
}

// Made is what the making of a layer has found out.
type Made struct {
	DiffIDs []digest.Digest // of the uncompressed archives
	Inodes  uint64
	// OpaqueRoot is that of LayerInfo.
	OpaqueRoot bool
}

// LayerPath is the file system image of a layer: an erofs, not compressed.
// What is there is complete.
func (s *Store) LayerPath(id digest.Digest) (string, error) {
	if err := validDigest(id); err != nil {
		return "", err
	}
	return filepath.Join(s.place(layerOf(id)), layerFile), nil
}

// LayerInfo reads what is known of a layer.
func (s *Store) LayerInfo(id digest.Digest) (*LayerInfo, error) {
	if err := validDigest(id); err != nil {
		return nil, err
	}
	path := filepath.Join(s.place(layerOf(id)), layerMeta)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", id, err)
	}
	info := new(LayerInfo)
	if err := decode(path, text, info); err != nil {
		return nil, err
	}
	if info.Version != formatVersion || info.ID != id {
		return nil, fmt.Errorf("%w: %s: version %d of layer %s", ErrCorrupt, path, info.Version, info.ID)
	}
	return info, nil
}

// LayerFiles are the file system images that show of an image, the lowest
// first.
func (s *Store) LayerFiles(img *Image) ([]string, error) {
	var files []string
	for _, l := range img.Stack() {
		info, err := s.LayerInfo(l.ID)
		if err != nil {
			return nil, err
		}
		path, err := s.LayerPath(l.ID)
		if err != nil {
			return nil, err
		}
		if info.OpaqueRoot {
			files = nil
		}
		files = append(files, path)
	}
	return files, nil
}

// EnsureLayer names a layer in the lease and has it made where it is missing:
// unpack writes the file system image. Of several processes and goroutines one
// does the work, and the others wait. It may wait for layers below, and for
// nothing else. The diff ids that unpack finds must be the expected ones.
func (l *Lease) EnsureLayer(ctx context.Context, want LayerSpec, unpack func(context.Context, *os.File) (Made, error)) error {
	if err := l.ensureLayer(ctx, want, unpack); err != nil {
		return fmt.Errorf("layer %s: %w", want.ID, err)
	}
	return nil
}

func (l *Lease) ensureLayer(ctx context.Context, want LayerSpec, unpack func(context.Context, *os.File) (Made, error)) error {
	r := layerOf(want.ID)
	if there, err := l.need(ctx, r); err != nil || there[0] {
		return err
	}
	lock, err := l.s.lockKey(ctx, r.key())
	if err != nil {
		return err
	}
	defer lock.release()
	if there, err := l.s.has(r); err != nil || there {
		return err
	}
	dir := filepath.Join(l.TempDir(), r.key())
	if err := l.s.step("layer.mkdir", func() error { return os.Mkdir(dir, 0o700) }); err != nil {
		return err
	}
	err = l.makeLayer(ctx, dir, want, unpack)
	if err == nil {
		err = l.commitLayer(r, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir)) // our own two files
	}
	return nil
}

// makeLayer fills the folder of a layer, and writes it to the disk.
func (l *Lease) makeLayer(ctx context.Context, dir string, want LayerSpec, unpack func(context.Context, *os.File) (Made, error)) error {
	f, err := os.OpenFile(filepath.Join(dir, layerFile), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	var made Made
	err = l.s.step("layer.unpack", func() (err error) {
		made, err = unpack(ctx, f)
		return err
	})
	if err != nil {
		return err
	}
	if !slices.Equal(made.DiffIDs, want.DiffIDs) {
		return fmt.Errorf("%w: diff id %s instead of %s", ErrDigest, made.DiffIDs, want.DiffIDs)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := f.Chmod(0o400); err != nil {
		return err
	}
	if err := l.s.syncFile("layer", f); err != nil {
		return err
	}
	meta := LayerInfo{
		Version: formatVersion, LayerSpec: want, Size: info.Size(), Inodes: made.Inodes, OpaqueRoot: made.OpaqueRoot,
	}
	return l.s.replace("layer.meta", dir, layerMeta, meta)
}

// commitLayer puts a whole layer at its place.
func (l *Lease) commitLayer(r resource, dir string) error {
	if err := l.holds(r); err != nil {
		return err
	}
	return l.s.rename("layer", dir, l.s.place(r))
}

// HasLayer names a layer in the lease, and then says whether it is there.
func (l *Lease) HasLayer(ctx context.Context, id digest.Digest) (bool, error) {
	there, err := l.need(ctx, layerOf(id))
	if err != nil {
		return false, fmt.Errorf("layer %s: %w", id, err)
	}
	return there[0], nil
}

// missing reports whether an error says that a file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
