package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/state"
)

// FsckOptions are the choices of a check.
type FsckOptions struct {
	// Content reads every blob and compares it with its digest, and has every
	// layer made again and compared where Unpack is given.
	Content bool
	// Unpack makes the file system image of a layer from its blobs.
	Unpack func(ctx context.Context, layer LayerSpec, dst *os.File) (Made, error)
	// Repair moves what is damaged away, and takes the names from images that
	// are no longer whole: the next pull makes them again.
	Repair bool
}

// Problem is something that is not as it should be.
type Problem struct {
	Path     string `json:"path"` // below the store's root
	What     string `json:"what"`
	Repaired bool   `json:"repaired"`
}

func (p Problem) String() string {
	if p.Repaired {
		return p.Path + ": " + p.What + " (moved away)"
	}
	return p.Path + ": " + p.What
}

// Fsck checks the whole store. What a killed process leaves is no problem:
// leases, temporary files, downloads that were begun, trash.
func (s *Store) Fsck(ctx context.Context, o FsckOptions) ([]Problem, error) {
	f := &fsck{s: s, damaged: map[resource]bool{}}
	err := f.run(ctx, o)
	if err == nil && o.Repair {
		err = f.repair(ctx)
	}
	return f.problems, wrapf("check the image store", err)
}

type fsck struct {
	s        *Store
	problems []Problem
	damaged  map[resource]bool
}

func (f *fsck) found(path, format string, args ...any) {
	if rel, err := filepath.Rel(f.s.root, path); err == nil {
		path = rel
	}
	f.problems = append(f.problems, Problem{Path: path, What: fmt.Sprintf(format, args...)})
}

func (f *fsck) run(ctx context.Context, o FsckOptions) error {
	// A lease of our own sweeps first, and has a folder for what is made again.
	lease, err := f.s.NewLease(ctx)
	if err != nil {
		return err
	}
	defer lease.Close()
	if ok, err := f.s.checkFormat(); !ok || err != nil {
		f.found(f.s.path(formatFile), "%v", err)
	}
	if err := f.resources(ctx, o, lease); err != nil {
		return err
	}
	meta, err := f.s.shared(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	return errors.Join(f.imageRecords(), f.pinRecords())
}

// resources checks blobs and layers.
func (f *fsck) resources(ctx context.Context, o FsckOptions, lease *Lease) error {
	for _, dir := range []struct {
		path, kind string
		check      func(context.Context, resource) error
	}{
		{f.s.path(blobsDir, digest.SHA256.String()), blobKind, func(ctx context.Context, r resource) error {
			return f.blob(ctx, r, o.Content)
		}},
		{f.s.path(layersDir), layerKind, func(ctx context.Context, r resource) error {
			return f.layer(ctx, r, o, lease)
		}},
	} {
		entries, err := os.ReadDir(dir.path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			r := resource{dir.kind, digest.NewDigestFromEncoded(digest.SHA256, e.Name())}
			path := filepath.Join(dir.path, e.Name())
			err := validDigest(r.id)
			if err != nil {
				f.found(path, "%s", "not made by vc-runtime")
				continue
			}
			if err := dir.check(ctx, r); ctx.Err() != nil {
				return context.Cause(ctx)
			} else if err != nil && !missing(err) { // it may have gone just now
				f.damaged[r] = true
				f.found(path, "%v", err)
			}
		}
	}
	return nil
}

func (f *fsck) blob(ctx context.Context, r resource, content bool) error {
	if there, err := f.s.has(r); !there || err != nil || !content {
		return err
	}
	file, err := os.Open(f.s.place(r))
	if err != nil {
		return err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, interruptible{ctx, file}); err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, hash); got != r.id {
		return fmt.Errorf("%w: it is %s", ErrDigest, got)
	}
	return nil
}

func (f *fsck) layer(ctx context.Context, r resource, o FsckOptions, lease *Lease) error {
	if there, err := f.s.has(r); !there || err != nil {
		return err
	}
	info, err := f.s.LayerInfo(r.id)
	if missing(err) {
		return fmt.Errorf("no %s", layerMeta)
	}
	if err != nil {
		return err
	}
	path := filepath.Join(f.s.place(r), layerFile)
	switch st, err := os.Lstat(path); {
	case missing(err):
		return fmt.Errorf("no %s", layerFile)
	case err != nil:
		return err
	case !st.Mode().IsRegular() || st.Size() != info.Size:
		return fmt.Errorf("%s has %d bytes instead of %d", layerFile, st.Size(), info.Size)
	}
	if !o.Content || o.Unpack == nil {
		return nil
	}
	return f.remake(ctx, info, path, o, lease.TempDir())
}

// remake makes a layer again and compares: the making is deterministic.
func (f *fsck) remake(ctx context.Context, info *LayerInfo, path string, o FsckOptions, tmp string) error {
	again, err := os.CreateTemp(tmp, "layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(again.Name())
	defer again.Close()
	made, err := o.Unpack(ctx, info.LayerSpec, again)
	if missing(err) {
		return nil // what it was made of is not kept any more, or of another image: nothing to compare it with
	}
	if err != nil {
		return err
	}
	if !slices.Equal(made.DiffIDs, info.DiffIDs) {
		return fmt.Errorf("%w: diff id %s instead of %s", ErrDigest, made.DiffIDs, info.DiffIDs)
	}
	is, err := hashFile(ctx, path)
	if err != nil {
		return err
	}
	want, err := hashFile(ctx, again.Name())
	if err != nil {
		return err
	}
	if is != want {
		return fmt.Errorf("%s is not what its blobs give", layerFile)
	}
	return nil
}

func hashFile(ctx context.Context, path string) (digest.Digest, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	return digest.SHA256.FromReader(interruptible{ctx, file})
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context
	r   io.Reader
}

func (i interruptible) Read(b []byte) (int, error) {
	if i.ctx.Err() != nil {
		return 0, context.Cause(i.ctx)
	}
	return i.r.Read(b)
}

// imageRecords checks the images. The store is locked.
func (f *fsck) imageRecords() error {
	entries, err := os.ReadDir(f.s.path(imagesDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := f.s.path(imagesDir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), asidePrefix):
			continue // of a killed process
		case !strings.HasSuffix(e.Name(), recordSuffix):
			f.found(path, "not made by vc-runtime")
			continue
		}
		img, err := f.s.readImage(e.Name())
		if err != nil {
			f.found(path, "%v", err)
			continue
		}
		if err := f.whole(img); err != nil {
			f.found(path, "image %s: %v", img.Name, err)
		}
	}
	return nil
}

// pinRecords checks the pins of this boot. The store is locked.
func (f *fsck) pinRecords() error {
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	files, err := f.s.records(containersDir, pinSuffix)
	if err != nil {
		return err
	}
	for _, file := range files {
		path := f.s.path(containersDir, file)
		p, err := f.s.readPin(file)
		if err != nil {
			f.found(path, "%v", err)
			continue
		}
		if p.Boot != boot {
			continue // the next collection takes it
		}
		if err := f.whole(p.Image); err != nil {
			f.found(path, "container %s: %v", p.Container, err)
		}
	}
	return nil
}

// whole gives an error for the first thing that an image lacks.
func (f *fsck) whole(img *Image) error {
	for _, r := range img.resources() {
		there, err := f.s.has(r)
		switch {
		case err != nil:
			return err
		case !there:
			return fmt.Errorf("%s is missing", r)
		case f.damaged[r]:
			return fmt.Errorf("%s is damaged", r)
		}
	}
	for _, d := range slices.Concat([]Descriptor{img.Target, img.Manifest, img.Config}, descriptors(img.Layers)) {
		st, err := os.Lstat(f.s.place(blobOf(d.Digest)))
		if err != nil {
			return err
		}
		if st.Size() != d.Size {
			f.damaged[blobOf(d.Digest)] = true
			return fmt.Errorf("blob %s has %d bytes instead of %d", d.Digest, st.Size(), d.Size)
		}
	}
	return nil
}

func descriptors(layers []Layer) []Descriptor {
	ds := make([]Descriptor, len(layers))
	for i, l := range layers {
		ds[i] = l.Descriptor
	}
	return ds
}

// repair moves what is wrong into the trash.
func (f *fsck) repair(ctx context.Context) error {
	meta, err := f.s.exclusive(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	away := func(path string) error {
		return ignoreMissing(os.Rename(path, f.s.path(trashDir, newID())))
	}
	for r := range f.damaged {
		if err := away(f.s.place(r)); err != nil {
			return err
		}
	}
	for i, p := range f.problems {
		path := f.s.path(p.Path)
		if p.Path == formatFile {
			continue
		}
		if err := away(path); err != nil {
			return err
		}
		f.problems[i].Repaired = true
	}
	return errors.Join(f.s.syncDir("fsck", f.s.path(imagesDir)))
}
