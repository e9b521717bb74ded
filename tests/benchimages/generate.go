package main

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image is an image to be generated.
type image struct {
	name, what    string
	layers, files int // files in each layer
	bytes         int // of a file, at most
}

// generate says what the three images are.
func generate(size int) []*image {
	return []*image{
		{"small", fmt.Sprintf("4 layers of %d files of up to 16 KiB", 2500*size), 4, 2500 * size, 16 << 10},
		{"large", fmt.Sprintf("2 layers of 2 files of %d MiB", 12*size), 2, 2, 12 * size << 20},
		{"layers", fmt.Sprintf("40 layers of %d files of up to 16 KiB", 50*size), 40, 50 * size, 16 << 10},
	}
}

// push makes the image as an OCI layout, and has skopeo push it.
func (img *image) push(dir string) error {
	layout := filepath.Join(dir, "push-"+img.name)
	defer os.RemoveAll(layout)
	if err := img.write(layout); err != nil {
		return err
	}
	out, err := exec.Command("skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:"+layout+":1", "docker://"+registryAddr+"/"+img.name+":1").CombinedOutput()
	if err != nil {
		return fmt.Errorf("skopeo: %w: %s", err, out)
	}
	return nil
}

func (img *image) write(layout string) error {
	blobs := filepath.Join(layout, "blobs/sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		return err
	}
	put := func(mediaType string, v any) (ocispec.Descriptor, error) {
		text, err := json.Marshal(v)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(text), Size: int64(len(text))}
		return d, os.WriteFile(filepath.Join(blobs, d.Digest.Encoded()), text, 0o600)
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	config.Config.Cmd = []string{"/bin/sh"}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for n := range img.layers {
		d, diffID, err := img.layer(blobs, n)
		if err != nil {
			return err
		}
		manifest.Layers = append(manifest.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	var err error
	if manifest.Config, err = put(ocispec.MediaTypeImageConfig, config); err != nil {
		return err
	}
	d, err := put(ocispec.MediaTypeImageManifest, manifest)
	if err != nil {
		return err
	}
	d.Annotations = map[string]string{ocispec.AnnotationRefName: "1"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{d}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(layout, ocispec.ImageIndexFile), index, 0o600); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(layout, ocispec.ImageLayoutFile), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)
}

// layer writes one layer: half of each file is noise, half is not, so that it
// compresses as software does.
func (img *image) layer(blobs string, n int) (ocispec.Descriptor, digest.Digest, error) {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip}
	f, err := os.CreateTemp(blobs, "layer-*")
	if err != nil {
		return d, "", err
	}
	defer f.Close()
	blob, diff := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, blob), gzip.BestSpeed) // it is not what is measured
	if err != nil {
		return d, "", err
	}
	if err := img.tar(io.MultiWriter(z, diff), n); err != nil {
		return d, "", err
	}
	if err := z.Close(); err != nil {
		return d, "", err
	}
	info, err := f.Stat()
	if err != nil {
		return d, "", err
	}
	d.Size, d.Digest = info.Size(), digest.NewDigest(digest.SHA256, blob)
	return d, digest.NewDigest(digest.SHA256, diff), os.Rename(f.Name(), filepath.Join(blobs, d.Digest.Encoded()))
}

func (img *image) tar(w io.Writer, n int) error {
	t := tar.NewWriter(w)
	seed := [32]byte{byte(n), byte(len(img.name)), byte(img.files)}
	noise, choice := rand.NewChaCha8(seed), rand.New(rand.NewPCG(uint64(n), uint64(img.files)))
	for i := range img.files {
		if i%100 == 0 {
			if err := t.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d-%d/", n, i/100), Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return err
			}
		}
		size := img.bytes
		if img.files > 2 {
			size = choice.IntN(img.bytes)
		}
		b := make([]byte, size)
		noise.Read(b[:size/2])
		if err := t.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d-%d/f%d", n, i/100, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		if _, err := t.Write(b); err != nil {
			return err
		}
	}
	return t.Close()
}
