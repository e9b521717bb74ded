package registrytest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Layer is a layer of an image that is made for a test.
type Layer struct {
	MediaType string // "" is OCI's, by the compression
	Tar       []byte
	Blob      []byte // Tar as it is served
}

// Files makes a layer of files with their content; a name that ends in a slash is
// a folder. Compression is "", "gzip" or "zstd".
func Files(t testing.TB, compression string, files map[string]string) Layer {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	for _, name := range sorted(files) {
		h := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(files[name]))}
		if strings.HasSuffix(name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return Compressed(t, compression, text.Bytes())
}

func sorted(files map[string]string) []string {
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Compressed makes a layer of a tar.
func Compressed(t testing.TB, compression string, text []byte) Layer {
	t.Helper()
	l := Layer{Tar: text, MediaType: ocispec.MediaTypeImageLayer}
	var out bytes.Buffer
	switch compression {
	case "":
		l.Blob = text
		return l
	case "gzip":
		z := gzip.NewWriter(&out)
		if _, err := z.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	case "zstd":
		z, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatalf("compression %q", compression)
	}
	l.MediaType += "+" + compression
	l.Blob = out.Bytes()
	return l
}

// Noise is n bytes that do not compress, the same for the same seed.
func Noise(seed uint64, n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	r.Read(b)
	return string(b)
}

// Image is an image that is made for a test.
type Image struct {
	Config   []byte
	Manifest []byte
	Layers   []Layer
}

// Change is a last change to what an image is made of.
type Change func(*ocispec.Image, *ocispec.Manifest)

// NewImage makes an image of layers, for linux/amd64.
func NewImage(t testing.TB, layers []Layer, changes ...Change) *Image {
	t.Helper()
	img := &Image{Layers: layers}
	config := ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		Config:   ocispec.ImageConfig{Cmd: []string{"/bin/sh"}},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.Tar))
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{MediaType: l.MediaType, Digest: digest.FromBytes(l.Blob), Size: int64(len(l.Blob))})
	}
	for _, change := range changes {
		change(&config, &manifest)
	}
	img.Config = marshal(t, config)
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(img.Config), Size: int64(len(img.Config))}
	if strings.Contains(manifest.MediaType, "docker") {
		manifest.Config.MediaType = "application/vnd.docker.container.image.v1+json"
	}
	img.Manifest = marshal(t, manifest)
	return img
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Docker gives the media types that docker pushes.
func Docker(_ *ocispec.Image, m *ocispec.Manifest) {
	m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
	for i := range m.Layers {
		m.Layers[i].MediaType = "application/vnd.docker.image.rootfs.diff.tar" +
			strings.ReplaceAll(strings.TrimPrefix(m.Layers[i].MediaType, ocispec.MediaTypeImageLayer), "+", ".")
	}
}

// Add serves an image under a name, and gives its descriptor.
func (r *Registry) Add(repository, tag string, img *Image) ocispec.Descriptor {
	r.Put(ocispec.MediaTypeImageConfig, img.Config)
	for _, l := range img.Layers {
		r.Put("application/octet-stream", l.Blob)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Manifest, &m); err != nil {
		panic(fmt.Sprintf("a manifest of our own: %v", err))
	}
	d := r.Put(m.MediaType, img.Manifest)
	r.Tag(repository, tag, d)
	return ocispec.Descriptor{MediaType: m.MediaType, Digest: d, Size: int64(len(img.Manifest))}
}

// WriteLayout writes an image into a folder, in the OCI layout.
func WriteLayout(t testing.TB, dir string, img *Image) {
	t.Helper()
	content := [][]byte{img.Config, img.Manifest}
	for _, l := range img.Layers {
		content = append(content, l.Blob)
	}
	blobs := filepath.Join(dir, ocispec.ImageBlobsDir, digest.SHA256.String())
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		filepath.Join(dir, ocispec.ImageLayoutFile): marshal(t, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}),
		filepath.Join(dir, ocispec.ImageIndexFile): marshal(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(img.Manifest), Size: int64(len(img.Manifest)),
		}}}),
	}
	for _, text := range content {
		files[filepath.Join(blobs, digest.FromBytes(text).Encoded())] = text
	}
	for path, text := range files {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// AddIndex serves an index under a name.
func (r *Registry) AddIndex(t testing.TB, repository, tag, mediaType string, manifests ...ocispec.Descriptor) digest.Digest {
	t.Helper()
	d := r.Put(mediaType, marshal(t, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: manifests}))
	r.Tag(repository, tag, d)
	return d
}
