package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Descriptor names a blob.
type Descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // bytes
}

// Layer is one layer of an image: the blob that was served, and by its chain
// id the file system image that was made of it.
type Layer struct {
	Descriptor
	DiffID  digest.Digest `json:"diffID"`
	ChainID digest.Digest `json:"chainID"`
}

// Image is an image for one platform, by its name.
type Image struct {
	Version int `json:"version"`
	// Name is the whole reference, as package ref writes it.
	Name string `json:"name"`
	// Target is what the name stood for: an index, or the manifest itself.
	Target   Descriptor `json:"target"`
	Manifest Descriptor `json:"manifest"`
	Config   Descriptor `json:"config"`
	Platform string     `json:"platform"` // such as linux/amd64
	Layers   []Layer    `json:"layers"`   // lowest first
	// Merged is how many of the lowest layers are one file system image; 0 and
	// 1 are the same.
	Merged int `json:"merged,omitempty"`
	// Pulled is when the name was last given to this image.
	Pulled time.Time `json:"pulled"`
}

// ID is the image's: the digest of its configuration, as with docker.
func (img *Image) ID() digest.Digest { return img.Config.Digest }

// Size is how many bytes of content the image was served as.
func (img *Image) Size() int64 {
	n := img.Manifest.Size + img.Config.Size
	for _, l := range img.Layers {
		n += l.Size
	}
	return n
}

// resources is what the image is made of.
func (img *Image) resources() []resource {
	rs := []resource{blobOf(img.Target.Digest), blobOf(img.Manifest.Digest), blobOf(img.Config.Digest)}
	for _, l := range img.Layers {
		rs = append(rs, blobOf(l.Digest))
	}
	for _, l := range img.Stack() {
		rs = append(rs, layerOf(l.ID))
	}
	return rs
}

// Stack is the file system images that the image is, the lowest first.
func (img *Image) Stack() []LayerSpec {
	var stack []LayerSpec
	var next LayerSpec
	for i, l := range img.Layers {
		next.ID = l.ChainID
		next.DiffIDs = append(next.DiffIDs, l.DiffID)
		next.Blobs = append(next.Blobs, l.Descriptor)
		if i+1 < img.Merged {
			continue
		}
		if len(next.Blobs) > 1 {
			next.ID = digest.FromString("merged " + l.ChainID.String())
		}
		stack = append(stack, next)
		next = LayerSpec{Parent: next.ID}
	}
	return stack
}

// check gives an error for a record that cannot be right.
func (img *Image) check() error {
	if img.Version != formatVersion {
		return fmt.Errorf("version %d", img.Version)
	}
	if img.Name == "" {
		return errors.New("no name")
	}
	if img.Merged < 0 || img.Merged > len(img.Layers) {
		return fmt.Errorf("%d merged layers of %d", img.Merged, len(img.Layers))
	}
	for _, r := range img.resources() {
		if err := validDigest(r.id); err != nil {
			return err
		}
	}
	return nil
}

const recordSuffix = ".json"

func imageFile(name string) string { return digest.FromString(name).Encoded() + recordSuffix }

// PutImage gives the image its name. Everything the image is made of must be
// there, and named by the lease. This is the commit of a pull: what comes
// before it is garbage should the process die.
func (l *Lease) PutImage(ctx context.Context, img *Image) error {
	record := *img
	record.Version = formatVersion
	if err := l.putImage(ctx, &record); err != nil {
		return fmt.Errorf("record image %s: %w", img.Name, err)
	}
	img.Version = record.Version
	return nil
}

func (l *Lease) putImage(ctx context.Context, img *Image) error {
	if err := img.check(); err != nil {
		return err
	}
	meta, err := l.s.shared(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	if err := l.complete(img); err != nil {
		return err
	}
	return l.s.replace("image", l.s.path(imagesDir), imageFile(img.Name), img)
}

// complete gives an error unless the lease names all that the image is made
// of, and all of it is there.
func (l *Lease) complete(img *Image) error {
	for _, r := range img.resources() {
		if err := l.holds(r); err != nil {
			return err
		}
		if there, err := l.s.has(r); err != nil {
			return err
		} else if !there {
			return fmt.Errorf("%s is missing", r)
		}
	}
	return nil
}

// Image gives the image of exactly this name, or ErrNotExist.
func (s *Store) Image(name string) (*Image, error) {
	img, err := s.readImage(imageFile(name))
	if missing(err) {
		return nil, fmt.Errorf("%s: %w", name, ErrNotExist)
	}
	return img, err
}

func (s *Store) readImage(file string) (*Image, error) {
	path := s.path(imagesDir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	img := new(Image)
	if err := decode(path, text, img); err != nil {
		return nil, err
	}
	if err := img.check(); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	if imageFile(img.Name) != file {
		return nil, fmt.Errorf("%w: %s: it is the record of %s", ErrCorrupt, path, img.Name)
	}
	return img, nil
}

// Images lists the images by name.
func (s *Store) Images() ([]*Image, error) {
	images, err := readRecords(s, imagesDir, recordSuffix, s.readImage)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	slices.SortFunc(images, func(a, b *Image) int { return strings.Compare(a.Name, b.Name) })
	return images, nil
}

// readRecords reads all files of a folder that have the suffix and are whole.
func readRecords[T any](s *Store, dir, suffix string, read func(file string) (*T, error)) ([]*T, error) {
	files, err := s.records(dir, suffix)
	if err != nil {
		return nil, err
	}
	var all []*T
	for _, file := range files {
		record, err := read(file)
		if missing(err) {
			continue // removed just now
		}
		if err != nil {
			return nil, err
		}
		all = append(all, record)
	}
	return all, nil
}

// records lists the files of a folder that have the suffix and are whole.
func (s *Store) records(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(s.path(dir))
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), suffix) && !strings.HasPrefix(e.Name(), asidePrefix) {
			files = append(files, e.Name())
		}
	}
	return files, nil
}

// shortest is how many digits of an id are enough to mean one.
const shortest = 4

// ImagesByID lists the images whose id or manifest has the digest, or a
// digest that begins so. It gives ErrNotExist for none, and ErrAmbiguous for
// different ones.
func (s *Store) ImagesByID(id string) ([]*Image, error) {
	prefix := strings.TrimPrefix(id, digest.SHA256.String()+":")
	if len(prefix) < shortest || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, fmt.Errorf("%s: %w", id, ErrNotExist)
	}
	all, err := s.Images()
	if err != nil {
		return nil, err
	}
	var found []*Image
	for _, img := range all {
		if !strings.HasPrefix(img.ID().Encoded(), prefix) && !strings.HasPrefix(img.Manifest.Digest.Encoded(), prefix) {
			continue
		}
		if len(found) > 0 && found[0].ID() != img.ID() {
			return nil, fmt.Errorf("%s: %w", id, ErrAmbiguous)
		}
		found = append(found, img)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s: %w", id, ErrNotExist)
	}
	return found, nil
}

// Use names all of an image in the lease: it stays until the lease ends, also
// where its name is taken from it.
func (l *Lease) Use(ctx context.Context, name string) (*Image, error) {
	meta, err := l.s.shared(ctx)
	if err != nil {
		return nil, err
	}
	defer meta.release()
	// The record cannot become garbage between here and the lease's line.
	img, err := l.s.Image(name)
	if err != nil {
		return nil, err
	}
	if err := l.name(img.resources()); err != nil {
		return nil, err
	}
	return img, wrapf("image "+name, l.complete(img))
}

// RemoveImage takes the name from an image. Its content goes with the next GC,
// unless something else needs it. It gives ErrNotExist for an unknown name.
func (s *Store) RemoveImage(ctx context.Context, name string) error {
	meta, err := s.shared(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	path := s.path(imagesDir, imageFile(name))
	err = s.step("image.remove", func() error { return os.Remove(path) })
	if missing(err) {
		return fmt.Errorf("%s: %w", name, ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", name, err)
	}
	return s.syncDir("image.remove", s.path(imagesDir))
}
