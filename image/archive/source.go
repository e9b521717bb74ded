// Package archive reads images from folders and archives of the host, and
// writes them into archives: OCI image layouts, what docker save writes, and
// root file systems in a tar. The commands use it.
//
// Archives are hostile: what is read into memory is bounded, all content is
// checked against digests by the store, and no name of theirs is used on the
// host.
package archive

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
)

// maxJSON is how long a JSON file of an archive may be.
const maxJSON = 8 << 20

// ErrInvalid is given for what is not the archive that it is said to be.
var ErrInvalid = errors.New("not a valid image archive")

// Source is an image in files. It is a pull.Source.
type Source struct {
	files files
	// names are those that the files give the image; whole references.
	names  []string
	target digest.Digest
	blobs  map[digest.Digest]blob // those that are not below blobs/
	layout bool
}

// blob is content: in memory, or in a file.
type blob struct {
	text []byte
	file string
}

// Open opens the image of a reference. An archive that is compressed is decompressed into
// tmp.
func Open(r ref.Reference, tmp string) (*Source, error) {
	s, err := open(r, tmp)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return s, nil
}

func open(r ref.Reference, tmp string) (*Source, error) {
	s := &Source{blobs: map[digest.Digest]blob{}}
	var err error
	switch r.Transport {
	case ref.Layout:
		s.files, err = openFolder(r.Path)
	case ref.Archive, ref.DockerArchive:
		s.files, err = openTarball(r.Path, tmp)
	default:
		return nil, errors.New("neither a folder nor an archive")
	}
	if err != nil {
		return nil, err
	}
	if r.Transport == ref.DockerArchive {
		err = s.readDocker(r.Tag)
	} else {
		err = s.readLayout(r.Tag)
	}
	if err != nil {
		return nil, errors.Join(err, s.files.close())
	}
	return s, nil
}

// Close ends the reading.
func (s *Source) Close() error { return s.files.close() }

// Names are the names that the files give the image: whole references, maybe
// none.
func (s *Source) Names() []string { return s.names }

// Annotations that name an image of a layout.
const (
	containerdName = "io.containerd.image.name"
	refName        = ocispec.AnnotationRefName
)

// readLayout finds the image of an OCI layout.
func (s *Source) readLayout(tag string) error {
	s.layout = true
	text, err := readAll(s.files, ocispec.ImageLayoutFile, maxJSON)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no %s: not an OCI image layout", ErrInvalid, ocispec.ImageLayoutFile)
	}
	if err != nil {
		return err
	}
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(text, &layout); err != nil || layout.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: layout version %q: expected %q", ErrInvalid, layout.Version, ocispec.ImageLayoutVersion)
	}
	if text, err = readAll(s.files, ocispec.ImageIndexFile, maxJSON); err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, ocispec.ImageIndexFile, err)
	}
	chosen, err := chooseTag(index.Manifests, tag)
	if err != nil {
		return err
	}
	s.target = chosen.Digest
	for _, name := range []string{chosen.Annotations[containerdName], chosen.Annotations[refName]} {
		// A mere tag is no name of its own.
		if r, err := ref.Parse(name); err == nil && r.Transport == ref.Registry && strings.ContainsAny(name, "/:") {
			s.names = append(s.names, r.String())
			break
		}
	}
	return nil
}

// chooseTag takes the entry with the tag, or the only one.
func chooseTag(entries []ocispec.Descriptor, tag string) (ocispec.Descriptor, error) {
	var tags []string
	for _, d := range entries {
		names := []string{d.Annotations[refName], d.Annotations[containerdName]}
		if tag != "" && slices.Contains(names, tag) {
			return d, nil
		}
		tags = append(tags, names[0])
	}
	switch {
	case tag != "":
		return ocispec.Descriptor{}, fmt.Errorf("%w: tag %q: there is %q", registry.ErrNotFound, tag, tags)
	case len(entries) != 1:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %d images: name one of the tags %q", ErrInvalid, len(entries), tags)
	}
	return entries[0], nil
}

// dockerEntry is an image in the manifest.json of docker save.
type dockerEntry struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// readDocker makes a manifest for an image of docker save, which has none.
func (s *Source) readDocker(name string) error {
	text, err := readAll(s.files, "manifest.json", maxJSON)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: no manifest.json: not written by docker save", ErrInvalid)
	}
	if err != nil {
		return err
	}
	var entries []dockerEntry
	if err := json.Unmarshal(text, &entries); err != nil {
		return fmt.Errorf("%w: manifest.json: %w", ErrInvalid, err)
	}
	entry, err := chooseDocker(entries, name)
	if err != nil {
		return err
	}
	for _, tag := range entry.RepoTags {
		if r, err := ref.Parse(tag); err == nil && r.Transport == ref.Registry && (name == "" || name == r.String()) {
			s.names = append(s.names, r.String())
		}
	}
	config, err := readAll(s.files, entry.Config, maxJSON)
	if err != nil {
		return err
	}
	var image ocispec.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, entry.Config, err)
	}
	if len(image.RootFS.DiffIDs) != len(entry.Layers) {
		return fmt.Errorf("%w: %d diff ids for %d layers", ErrInvalid, len(image.RootFS.DiffIDs), len(entry.Layers))
	}
	var layers []ocispec.Descriptor
	for i, file := range entry.Layers {
		d, err := s.dockerLayer(file, image.RootFS.DiffIDs[i])
		if err != nil {
			return err
		}
		layers = append(layers, d)
	}
	return s.makeManifest(config, layers)
}

func chooseDocker(entries []dockerEntry, name string) (dockerEntry, error) {
	var tags []string
	for _, e := range entries {
		for _, tag := range e.RepoTags {
			if r, err := ref.Parse(tag); err == nil && r.String() == name {
				return e, nil
			}
		}
		tags = append(tags, e.RepoTags...)
	}
	switch {
	case name != "":
		return dockerEntry{}, fmt.Errorf("%w: image %s: there is %q", registry.ErrNotFound, name, tags)
	case len(entries) != 1:
		return dockerEntry{}, fmt.Errorf("%w: %d images: name one of %q", ErrInvalid, len(entries), tags)
	}
	return entries[0], nil
}

// dockerLayer describes a layer. One that is not compressed, which is the rule, has its diff
// id as its digest; that is checked when it is fetched, as any digest is.
func (s *Source) dockerLayer(file string, diffID digest.Digest) (ocispec.Descriptor, error) {
	r, size, err := s.files.open(file)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layer %s: %w", file, err)
	}
	defer r.Close()
	z, compression, err := decompress(r)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layer %s: %w", file, err)
	}
	z.Close()
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer + compression, Digest: diffID, Size: size}
	if compression != none {
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			return d, err
		}
		if d.Digest, err = digest.SHA256.FromReader(r); err != nil {
			return d, fmt.Errorf("layer %s: %w", file, err)
		}
	}
	s.blobs[d.Digest] = blob{file: file}
	return d, nil
}

// makeManifest makes the manifest of an image that has none.
func (s *Source) makeManifest(config []byte, layers []ocispec.Descriptor) error {
	text, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    layers,
	})
	if err != nil {
		return err
	}
	s.blobs[digest.FromBytes(config)] = blob{text: config}
	s.target = digest.FromBytes(text)
	s.blobs[s.target] = blob{text: text}
	return nil
}

// Resolve gives the digest of the image's manifest or index.
func (s *Source) Resolve(context.Context) (digest.Digest, error) { return s.target, nil }

// Manifest reads a manifest or index.
func (s *Source) Manifest(_ context.Context, d digest.Digest, limit int64) (*registry.Manifest, error) {
	if d == "" {
		d = s.target
	}
	r, size, err := s.blob(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("blob %s: %w: more than %d bytes", d, registry.ErrTooLarge, limit)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	return &registry.Manifest{Digest: d, Text: text}, nil
}

// Fetch copies a blob into the sink, from its offset on.
func (s *Source) Fetch(ctx context.Context, d digest.Digest, sink registry.Sink) error {
	r, size, err := s.blob(d)
	if err != nil {
		return err
	}
	defer r.Close()
	if size != sink.Size() {
		return fmt.Errorf("%w: blob %s has %d bytes instead of %d", ErrInvalid, d, size, sink.Size())
	}
	if _, err := r.Seek(sink.Offset(), io.SeekStart); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{sink}, interruptible{ctx, r}, make([]byte, 256<<10))
	return err
}

// blob opens content by its digest.
func (s *Source) blob(d digest.Digest) (io.ReadSeekCloser, int64, error) {
	if err := d.Validate(); err != nil {
		return nil, 0, fmt.Errorf("%w: digest %q: %w", ErrInvalid, d, err)
	}
	b, ok := s.blobs[d]
	switch {
	case ok && b.file == "":
		return nopCloser{strings.NewReader(string(b.text))}, int64(len(b.text)), nil
	case !ok && s.layout:
		b.file = ocispec.ImageBlobsDir + "/" + d.Algorithm().String() + "/" + d.Encoded()
	case !ok:
		return nil, 0, fmt.Errorf("blob %s: %w", d, registry.ErrNotFound)
	}
	r, size, err := s.files.open(b.file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, fmt.Errorf("blob %s: %w", d, registry.ErrNotFound)
	}
	return r, size, err
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
