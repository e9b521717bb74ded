package pull

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/vc-runtime/vc-runtime/image/erofs"
	"github.com/vc-runtime/vc-runtime/image/layer"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// Job is a layer that is to be unpacked.
type Job struct {
	// Blobs are the layer's, or those of the layers that are merged into one,
	// the lowest first.
	Blobs []Blob
	// Lowest says that nothing lies below.
	Lowest bool
	// Below waits for the layers below, and opens them, the lowest first. The
	// caller closes them.
	Below func(context.Context) ([]*os.File, error)
}

// Blob is a layer as the source has it.
type Blob struct {
	*os.File
	MediaType string
}

// UnpackLayer makes the erofs image of a layer.
func UnpackLayer(ctx context.Context, job Job, dst *os.File) (store.Made, error) {
	var blobs []layer.Blob
	for _, b := range job.Blobs {
		blobs = append(blobs, layer.Blob{Reader: b.File, MediaType: b.MediaType})
	}
	var res layer.Result
	var err error
	switch {
	case job.Lowest:
		res, err = layer.Merge(ctx, blobs, dst, layer.DefaultLimits())
	case len(blobs) == 1:
		res, err = layer.Unpack(ctx, blobs[0], dst, layer.DefaultLimits())
	default:
		err = fmt.Errorf("%d layers are to be merged above others", len(blobs))
	}
	if err != nil {
		return store.Made{}, err
	}
	if len(res.Implied) > 0 && !job.Lowest {
		if err := inherit(ctx, job, res, dst); err != nil {
			return store.Made{}, err
		}
	}
	return store.Made{DiffIDs: res.DiffIDs, Inodes: res.Inodes, OpaqueRoot: res.OpaqueRoot}, nil
}

// inherit takes over how folders look that the layer does not name.
func inherit(ctx context.Context, job Job, res layer.Result, dst *os.File) error {
	files, err := job.Below(ctx)
	if err != nil {
		return err
	}
	defer closeAll(files)
	var below []*erofs.Image
	for _, f := range files {
		st, err := f.Stat()
		if err != nil {
			return err
		}
		m, err := erofs.Open(f, st.Size())
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		below = append(below, m)
	}
	return layer.Inherit(dst, res.Size, res.Implied, below)
}

// job is a Job with open files.
type job struct{ Job }

// openJob opens the blobs of a layer.
func openJob(s *store.Store, spec store.LayerSpec) (*job, error) {
	j := &job{Job{Lowest: spec.Parent == ""}}
	for _, d := range spec.Blobs {
		f, err := s.OpenBlob(d.Digest)
		if err != nil {
			j.close()
			return nil, err
		}
		j.Blobs = append(j.Blobs, Blob{f, d.MediaType})
	}
	return j, nil
}

func (j *job) close() {
	for _, b := range j.Blobs {
		b.Close()
	}
}

// openLayers opens file system images, the lowest first.
func openLayers(s *store.Store, stack []store.LayerSpec) ([]*os.File, error) {
	var files []*os.File
	for _, l := range stack {
		path, err := s.LayerPath(l.ID)
		if err == nil {
			var f *os.File
			if f, err = os.Open(path); err == nil {
				files = append(files, f)
			}
		}
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("layer %s: %w", l.ID, err)
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Remake makes a layer again that the store has, for store.FsckOptions.
func Remake(s *store.Store) func(context.Context, store.LayerSpec, *os.File) (store.Made, error) {
	return func(ctx context.Context, spec store.LayerSpec, dst *os.File) (store.Made, error) {
		j, err := openJob(s, spec)
		if err != nil {
			return store.Made{}, err
		}
		defer j.close()
		j.Below = func(context.Context) ([]*os.File, error) {
			var stack []store.LayerSpec
			for id := spec.Parent; id != ""; {
				info, err := s.LayerInfo(id)
				if err != nil {
					return nil, err
				}
				stack = append(stack, info.LayerSpec)
				if id = info.Parent; len(stack) > maxLayers {
					return nil, fmt.Errorf("%w: layers that are their own parents", store.ErrCorrupt)
				}
			}
			slices.Reverse(stack)
			return openLayers(s, stack)
		}
		return UnpackLayer(ctx, j.Job, dst)
	}
}

// Folder writes what a container would see of an image into dir, an empty
// folder. The caller has a lease on the image.
func Folder(ctx context.Context, s *store.Store, img *store.Image, dir *os.File) (layer.Exported, error) {
	files, err := openLayers(s, img.Stack())
	if err != nil {
		return layer.Exported{}, err
	}
	defer closeAll(files)
	return layer.Export(ctx, files, dir)
}
