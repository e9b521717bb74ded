// Package ref reads references to images: names in registries with docker's
// defaults, digests, and images in files of the host.
package ref

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/distribution/reference" // docker's own parser of names
	"github.com/opencontainers/go-digest"
)

// Transport is where an image comes from.
type Transport string

const (
	Registry      Transport = "docker"         // the prefix may be left out
	Layout        Transport = "oci"            // a folder in the OCI image layout
	Archive       Transport = "oci-archive"    // a tar of such a folder
	DockerArchive Transport = "docker-archive" // what docker save writes
)

// Reference names an image. It is comparable.
type Reference struct {
	Transport Transport

	// Host, Repository, Tag and Digest are of a registry. Host is the registry
	// as in names, docker.io where none is given; Repository has no host. There
	// is a tag or a digest, or both, where the digest decides.
	Host       string
	Repository string
	Digest     digest.Digest
	// Tag is also that of an image in a layout or archive: "" where it has
	// only one. In a DockerArchive it is a whole name.
	Tag string

	// Path is the file or folder of the other transports, absolute.
	Path string
}

// ErrInvalid is given for a text that is no reference.
var ErrInvalid = errors.New("invalid image reference")

// Parse reads a reference: NAME[:TAG][@DIGEST], docker://NAME…, oci:DIR[:TAG],
// oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]. A name without a registry
// is of docker.io, there without a folder of library/, and without tag and
// digest it is latest. A relative path begins at the current folder.
func Parse(text string) (Reference, error) {
	r, err := parse(text)
	if err != nil {
		return Reference{}, fmt.Errorf("%w %q: %w", ErrInvalid, text, err)
	}
	return r, nil
}

func parse(text string) (Reference, error) {
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return Reference{}, errors.New("control characters")
	}
	prefix, rest, _ := strings.Cut(text, ":")
	switch t := Transport(prefix); t {
	case Registry:
		name, ok := strings.CutPrefix(rest, "//")
		if ok {
			return parseName(name)
		}
	case Layout, Archive, DockerArchive:
		return parsePath(t, rest)
	}
	return parseName(text)
}

func parseName(text string) (Reference, error) {
	named, err := reference.ParseDockerRef(text) // with the defaults; a digest wins over the tag
	if err != nil {
		return Reference{}, err
	}
	r := Reference{Transport: Registry, Host: reference.Domain(named), Repository: reference.Path(named)}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	}
	if d, ok := named.(reference.Digested); ok {
		r.Digest = d.Digest()
		if r.Digest.Algorithm() != digest.SHA256 {
			return Reference{}, fmt.Errorf("digest %s: expected %s", r.Digest, digest.SHA256)
		}
	}
	return r, nil
}

// anchored is a tag of a layout: the specification lets it be most things, but a path
// begins where there is a slash.
var anchored = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]*$`)

func parsePath(t Transport, rest string) (Reference, error) {
	r := Reference{Transport: t}
	path := rest
	if t == DockerArchive {
		// The name has colons and slashes of its own: the path ends at the
		// first colon, as with skopeo.
		var name string
		path, name, _ = strings.Cut(rest, ":")
		if name != "" {
			named, err := parseName(name)
			if err != nil {
				return Reference{}, err
			}
			r.Tag = named.String()
		}
	} else if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.Contains(rest[i:], "/") {
		path, r.Tag = rest[:i], rest[i+1:]
		if !anchored.MatchString(r.Tag) {
			return Reference{}, fmt.Errorf("tag %q: expected letters, digits, and . _ + - past the first", r.Tag)
		}
	}
	if path == "" {
		return Reference{}, fmt.Errorf("expected %s:PATH", t)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Reference{}, err
	}
	// String has to be read the same way again.
	if t == DockerArchive && strings.Contains(abs, ":") || r.Tag == "" && strings.Contains(filepath.Base(abs), ":") {
		return Reference{}, fmt.Errorf("path %s: expected one without a colon", abs)
	}
	r.Path = abs
	return r, nil
}

// String is the whole reference. Two that name the same have the same, which is
// the name of an image in the store.
func (r Reference) String() string {
	if r.Transport != Registry {
		s := string(r.Transport) + ":" + r.Path
		if r.Tag != "" {
			s += ":" + r.Tag
		}
		return s
	}
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Name is host and repository, without tag and digest.
func (r Reference) Name() string { return r.Host + "/" + r.Repository }

// Familiar is the short form, for people: without what Parse would add.
func (r Reference) Familiar() string {
	if r.Transport != Registry {
		return r.String()
	}
	named, err := reference.ParseNormalizedNamed(r.String())
	if err != nil {
		return r.String()
	}
	return reference.FamiliarString(named)
}
