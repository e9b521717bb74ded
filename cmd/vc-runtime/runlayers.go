package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/layer"
	"github.com/vc-runtime/vc-runtime/image/store"
	"github.com/vc-runtime/vc-runtime/virtcontainers/bundle"
)

// layers are the files of the image's layers that show, the lowest first. Where the
// image declares volumes there is one below them, with their folders, which a layer need not
// have; and where it has no layers at all, one with nothing in it.
func (r *imageRun) layers(ctx context.Context, img *store.Image, dir string) ([]string, error) {
	paths, err := r.store.LayerFiles(img)
	if err != nil {
		return nil, err
	}
	volumes, err := bundle.Declared(r.config.Image)
	if err != nil || len(paths) > 0 && len(volumes) == 0 {
		return paths, err
	}
	lowest := filepath.Join(dir, bundle.LowestName)
	return append([]string{lowest}, paths...), makeFolders(ctx, lowest, volumes)
}

// makeFolders makes a layer of folders.
func makeFolders(ctx context.Context, file string, folders []string) error {
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, folder := range folders {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: folder + "/", Mode: 0o755}); err != nil {
			return fmt.Errorf("volume %q of the image: %w", folder, err)
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	_, err = layer.Merge(ctx, []layer.Blob{{Reader: &text, MediaType: v1.MediaTypeImageLayer}}, f, layer.DefaultLimits())
	return errors.Join(err, f.Close())
}
