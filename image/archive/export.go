package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// Export writes an image as an OCI image layout in a tar. The same image
// always gives the same archive. The caller has a lease on it.
func Export(ctx context.Context, s *store.Store, img *store.Image, w io.Writer) error {
	t := tar.NewWriter(w)
	if err := export(ctx, s, img, t); err != nil {
		return fmt.Errorf("export %s: %w", img.Name, err)
	}
	return t.Close()
}

func export(ctx context.Context, s *store.Store, img *store.Image, t *tar.Writer) error {
	tag := img.Name
	if r, err := ref.Parse(img.Name); err == nil && r.Tag != "" {
		tag = r.Tag
	}
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	index, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{{
			MediaType: img.Manifest.MediaType, Digest: img.Manifest.Digest, Size: img.Manifest.Size,
			Annotations: map[string]string{refName: tag, containerdName: img.Name},
		}},
	})
	if err != nil {
		return err
	}
	for _, dir := range []string{ocispec.ImageBlobsDir + "/", ocispec.ImageBlobsDir + "/" + digest.SHA256.String() + "/"} {
		if err := t.WriteHeader(&tar.Header{Name: dir, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: imported()}); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{ocispec.ImageLayoutFile, layout}, {ocispec.ImageIndexFile, index}} {
		if err := writeEntry(t, f.name, int64(len(f.text)), strings.NewReader(string(f.text))); err != nil {
			return err
		}
	}
	blobs := []store.Descriptor{img.Manifest, img.Config}
	for _, l := range img.Layers {
		if !slices.Contains(blobs, l.Descriptor) {
			blobs = append(blobs, l.Descriptor)
		}
	}
	for _, d := range blobs {
		if err := exportBlob(ctx, s, d, t); err != nil {
			return err
		}
	}
	return nil
}

func exportBlob(ctx context.Context, s *store.Store, d store.Descriptor, t *tar.Writer) error {
	f, err := s.OpenBlob(d.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	name := ocispec.ImageBlobsDir + "/" + d.Digest.Algorithm().String() + "/" + d.Digest.Encoded()
	return writeEntry(t, name, d.Size, interruptible{ctx, f})
}

func writeEntry(t *tar.Writer, name string, size int64, r io.Reader) error {
	err := t.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size, ModTime: imported()})
	if err != nil {
		return err
	}
	n, err := io.Copy(t, r)
	if err == nil && n != size {
		err = fmt.Errorf("%s has %d bytes instead of %d: %w", name, n, size, io.ErrUnexpectedEOF)
	}
	return err
}
