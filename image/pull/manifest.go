package pull

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/layer"
	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// Media types of manifests, beside OCI's.
const (
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// document is a manifest or an index.
type document struct {
	digest digest.Digest
	size   int64

	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
	FSLayers      json.RawMessage      `json:"fsLayers"` // of docker's first version
}

// parseDocument reads a manifest or an index. said is the media type that the
// source has given for it, if any.
func parseDocument(text []byte, d digest.Digest, said string) (*document, error) {
	doc := &document{digest: d, size: int64(len(text))}
	if err := json.Unmarshal(text, doc); err != nil {
		return nil, fmt.Errorf("%w: manifest %s: %w", ErrInvalid, d, err)
	}
	index := doc.Manifests != nil
	switch {
	case doc.FSLayers != nil || doc.SchemaVersion == 1:
		return nil, fmt.Errorf("%w: manifest %s is of docker's first version, which is not supported", ErrInvalid, d)
	case doc.SchemaVersion != 2:
		return nil, fmt.Errorf("%w: manifest %s: schemaVersion %d: expected 2", ErrInvalid, d, doc.SchemaVersion)
	case index && (doc.Config != nil || doc.Layers != nil):
		// Which of both it is must not depend on who reads it (CVE-2021-41190).
		return nil, fmt.Errorf("%w: %s is a manifest and an index at once", ErrInvalid, d)
	case !index && doc.Config == nil:
		return nil, fmt.Errorf("%w: %s is neither a manifest nor an index", ErrInvalid, d)
	}
	types := []string{ocispec.MediaTypeImageManifest, dockerManifest}
	if index {
		types = []string{ocispec.MediaTypeImageIndex, dockerIndex}
	}
	if doc.MediaType == "" && isManifest(said) {
		doc.MediaType = said
	}
	if doc.MediaType == "" {
		doc.MediaType = types[0] // layouts say nothing, nor do plain file servers
	}
	if !slices.Contains(types, doc.MediaType) {
		return nil, fmt.Errorf("%w: %s has media type %q: expected %s", ErrInvalid, d, doc.MediaType, strings.Join(types, " or "))
	}
	return doc, nil
}

// isManifest reports whether a media type is that of a manifest or index.
func isManifest(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest, ocispec.MediaTypeImageIndex, dockerIndex:
		return true
	}
	return false
}

func (doc *document) isIndex() bool { return doc.Manifests != nil }

func (doc *document) descriptor() store.Descriptor {
	return store.Descriptor{MediaType: doc.MediaType, Digest: doc.digest, Size: doc.size}
}

func descriptorOf(d ocispec.Descriptor) store.Descriptor {
	return store.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// choose takes the manifest for a platform of an index. Where none is for the
// platform's variant, one without a variant will do, and of several the first.
func (doc *document) choose(platform string) (ocispec.Descriptor, error) {
	var fallback *ocispec.Descriptor
	var have []string
	for i, m := range doc.Manifests {
		if !isManifest(m.MediaType) {
			continue
		}
		if m.Platform == nil {
			if fallback == nil && len(doc.Manifests) == 1 {
				fallback = &doc.Manifests[i]
			}
			continue
		}
		is := platformOf(m.Platform.OS, m.Platform.Architecture, m.Platform.Variant)
		if is == platform {
			return m, nil
		}
		if fallback == nil && matches(is, platform) {
			fallback = &doc.Manifests[i]
		}
		have = append(have, is)
	}
	if fallback != nil {
		return *fallback, nil
	}
	slices.Sort(have)
	return ocispec.Descriptor{}, fmt.Errorf("%w: nothing for platform %s in the index; it has %s", registry.ErrNotFound,
		platform, strings.Join(slices.Compact(have), ", "))
}

func platformOf(os, architecture, variant string) string {
	p := os + "/" + architecture
	if variant != "" {
		p += "/" + variant
	}
	return p
}

// matches tells whether one platform will do for another: the variants that
// architectures begin with go without saying.
func matches(is, want string) bool {
	return is == want || is == trimVariant(want) || trimVariant(is) == want
}

func trimVariant(p string) string {
	parts := strings.SplitN(p, "/", 3)
	return strings.Join(parts[:min(len(parts), 2)], "/")
}

// checkManifest looks at what a manifest wants to be fetched, before it is.
func (doc *document) checkManifest() error {
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: manifest %s: %s", ErrInvalid, doc.digest, fmt.Sprintf(format, args...))
	}
	switch doc.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig:
	default:
		return fail("configuration of media type %q: not a container image", doc.Config.MediaType)
	}
	if len(doc.Layers) > maxLayers {
		return fail("%d layers: expected at most %d", len(doc.Layers), maxLayers)
	}
	for i, d := range append([]ocispec.Descriptor{*doc.Config}, doc.Layers...) {
		if err := d.Digest.Validate(); err != nil || d.Digest.Algorithm() != digest.SHA256 {
			return fail("digest %q: expected one of %s", d.Digest, digest.SHA256)
		}
		if d.Size < 0 {
			return fail("%s has %d bytes", d.Digest, d.Size)
		}
		if i > 0 && !layer.KnownMediaType(d.MediaType) {
			return fail("layer %d has media type %q, which cannot be unpacked", i, d.MediaType)
		}
	}
	if doc.Config.Size > maxConfig {
		return fmt.Errorf("configuration %s: %w: %d bytes, expected at most %d", doc.Config.Digest, registry.ErrTooLarge, doc.Config.Size, maxConfig)
	}
	return nil
}

// describe completes the image from its configuration.
func (doc *document) describe(img *store.Image, config []byte, platform string) error {
	var c ocispec.Image
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%w: configuration %s: %s", ErrInvalid, img.Config.Digest, fmt.Sprintf(format, args...))
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return fail("%v", err)
	}
	img.Platform = platformOf(c.OS, c.Architecture, c.Variant)
	if c.OS == "" || c.Architecture == "" {
		img.Platform = platform // of those that say nothing
	}
	if !matches(img.Platform, platform) {
		return fmt.Errorf("%w: the image is for platform %s, not for %s", registry.ErrNotFound, img.Platform, platform)
	}
	if len(c.RootFS.DiffIDs) != len(doc.Layers) {
		return fail("%d diff ids for %d layers", len(c.RootFS.DiffIDs), len(doc.Layers))
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return fail("diff id %q: expected one of %s", d, digest.SHA256)
		}
	}
	chain := identity.ChainIDs(slices.Clone(c.RootFS.DiffIDs))
	for i, d := range doc.Layers {
		img.Layers = append(img.Layers, store.Layer{Descriptor: descriptorOf(d), DiffID: c.RootFS.DiffIDs[i], ChainID: chain[i]})
	}
	return nil
}
