// Package image is the image service as the commands use it: store, registries
// and archives of one configuration behind a few verbs. There is no daemon; any
// number of processes do this at once.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/archive"
	"github.com/vc-runtime/vc-runtime/image/config"
	"github.com/vc-runtime/vc-runtime/image/pull"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// Service is the image service of one configuration.
type Service struct {
	Store  *store.Store
	Config *config.Config
}

// Open opens the service of the configuration file; "" is the default one.
func Open(configFile string) (*Service, error) {
	c, err := config.Load(configFile)
	if err != nil {
		return nil, err
	}
	s, err := store.Open(c.Root, store.Options{Sync: c.Sync})
	if err != nil {
		return nil, err
	}
	return &Service{Store: s, Config: c}, nil
}

// Access is how a registry is to be reached, beside the configuration.
type Access struct {
	AuthFile           string // instead of the configured one
	Username, Password string
	Insecure           bool // any certificate, and HTTP
}

// PullOptions are the choices of a pull.
type PullOptions struct {
	Access
	Platform string // "" is the configured one
	Progress func(pull.Event)
	// Warn is told of what the user should know although the pull succeeds, by
	// any goroutine. It may be nil.
	Warn func(error)
}

// Policy says when an image is pulled that is to be used.
type Policy string

const (
	Missing Policy = "missing" // where the store does not have it
	Always  Policy = "always"
	Never   Policy = "never"
)

// Pull brings the image of a reference into the store, from wherever that
// points to, and gives it with a lease that names all of it. The caller closes
// the lease, after a pin if there is to be one.
func (s *Service) Pull(ctx context.Context, text string, o PullOptions) (*store.Image, *store.Lease, error) {
	r, err := ref.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	if r.Transport != ref.Registry {
		// An image that is used by its place is found by it again.
		return s.importFrom(ctx, r, []string{r.String()}, o)
	}
	auth := o.AuthFile
	if auth == "" {
		auth = s.Config.AuthFile
	}
	repo, err := registry.New(registry.Options{
		CertsDirs: s.Config.CertsDirs, AuthFile: auth, Username: o.Username, Password: o.Password,
		ProgressTimeout: s.Config.ProgressTimeout, Insecure: o.Insecure,
		Warn: o.Warn,
	}).Repository(r)
	if err != nil {
		return nil, nil, err
	}
	defer repo.Close()
	return pull.Pull(ctx, s.Store, pull.FromRegistry(repo, r), r.String(), s.options(o))
}

func (s *Service) options(o PullOptions) pull.Options {
	return pull.Options{
		Platform: s.platform(o.Platform), Unpack: pull.UnpackLayer,
		Downloads: s.Config.MaxConcurrentDownloads, MaxLayers: s.Config.MaxLayers, Progress: o.Progress,
	}
}

// platform is the first that is set: the given one, the configured one, the
// host's.
func (s *Service) platform(given string) string {
	for _, p := range []string{given, s.Config.Platform} {
		if p != "" {
			return p
		}
	}
	return config.HostPlatform()
}

// Import brings an image of the host's files into the store: a layout or an
// archive. It gets the name that is given, or those that the files give it,
// or, where there are none, its reference as a name.
func (s *Service) Import(ctx context.Context, text, name string, o PullOptions) (*store.Image, *store.Lease, error) {
	r, err := ref.Parse(text)
	if err != nil {
		return nil, nil, err
	}
	var names []string
	if name != "" {
		if names, err = imageName(name); err != nil {
			return nil, nil, err
		}
	}
	return s.importFrom(ctx, r, names, o)
}

// imageName makes a list of one whole name.
func imageName(text string) ([]string, error) {
	r, err := ref.Parse(text)
	if err != nil {
		return nil, err
	}
	if r.Transport != ref.Registry || r.Digest != "" {
		return nil, fmt.Errorf("%w %q: expected a name, and maybe a tag", ref.ErrInvalid, text)
	}
	return []string{r.String()}, nil
}

func (s *Service) importFrom(ctx context.Context, r ref.Reference, names []string, o PullOptions) (*store.Image, *store.Lease, error) {
	// What is decompressed goes where there is room for images.
	scratch, err := s.Store.NewLease(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer scratch.Close()
	src, err := archive.Open(r, scratch.TempDir())
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	if names == nil {
		names = src.Names()
	}
	if names == nil {
		names = []string{r.String()}
	}
	return s.add(ctx, src, names, o)
}

// add pulls from files, under several names.
func (s *Service) add(ctx context.Context, src *archive.Source, names []string, o PullOptions) (*store.Image, *store.Lease, error) {
	img, lease, err := pull.Pull(ctx, s.Store, src, names[0], s.options(o))
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names[1:] {
		other := *img
		other.Name = name
		if err := lease.PutImage(ctx, &other); err != nil {
			return nil, nil, errors.Join(err, lease.Close())
		}
	}
	return img, lease, nil
}

// ImportRootfs makes an image of one layer of a root file system in a tar.
// Changes are instructions as archive.Change takes them.
func (s *Service) ImportRootfs(ctx context.Context, tar io.Reader, name string, changes []string, o PullOptions) (*store.Image, *store.Lease, error) {
	names, err := imageName(name)
	if err != nil {
		return nil, nil, err
	}
	var c ocispec.ImageConfig
	for _, change := range changes {
		if err := archive.Change(&c, change); err != nil {
			return nil, nil, err
		}
	}
	scratch, err := s.Store.NewLease(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer scratch.Close()
	src, err := archive.Rootfs(ctx, tar, scratch.TempDir(), c, s.platform(o.Platform))
	if err != nil {
		return nil, nil, err
	}
	defer src.Close()
	return s.add(ctx, src, names, o)
}

// Find gives the image of a reference, or of an id or the beginning of one. It
// gives store.ErrNotExist for none.
func (s *Service) Find(text string) (*store.Image, error) {
	images, err := s.find(text)
	if err != nil {
		return nil, err
	}
	return images[0], nil
}

// find gives the image of a name, or all names of an id.
func (s *Service) find(text string) ([]*store.Image, error) {
	if r, err := ref.Parse(text); err == nil {
		img, err := s.Store.Image(r.String())
		if err == nil {
			return []*store.Image{img}, nil
		}
		if !errors.Is(err, store.ErrNotExist) {
			return nil, err
		}
	} else if !isID(text) {
		return nil, err
	}
	images, err := s.Store.ImagesByID(text)
	if errors.Is(err, store.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", text, store.ErrNotExist)
	}
	return images, err
}

// isID reports whether a text that is no reference is an id: a whole one is
// none to docker's parser.
func isID(text string) bool {
	return digest.Digest(text).Validate() == nil || len(text) == 64 && strings.Trim(text, "0123456789abcdef") == ""
}

// Get gives an image that is to be used, with a lease that names all of it, and
// pulls it where the policy says so.
func (s *Service) Get(ctx context.Context, text string, policy Policy, o PullOptions) (*store.Image, *store.Lease, error) {
	switch policy {
	case Missing, Never:
	case Always:
		return s.Pull(ctx, text, o)
	default:
		return nil, nil, fmt.Errorf("pull policy %q: expected %s, %s or %s", policy, Missing, Always, Never)
	}
	// A file may have changed, and to look costs little: no layer that is there
	// is copied again.
	if r, err := ref.Parse(text); err == nil && r.Transport != ref.Registry && policy == Missing {
		return s.Pull(ctx, text, o)
	}
	img, err := s.Find(text)
	if err == nil {
		img, lease, err := s.use(ctx, img.Name)
		if !errors.Is(err, store.ErrNotExist) {
			return img, lease, err
		}
	} else if !errors.Is(err, store.ErrNotExist) {
		return nil, nil, err
	}
	if policy == Never {
		return nil, nil, fmt.Errorf("%s: %w", text, store.ErrNotExist)
	}
	return s.Pull(ctx, text, o)
}

func (s *Service) use(ctx context.Context, name string) (*store.Image, *store.Lease, error) {
	lease, err := s.Store.NewLease(ctx)
	if err != nil {
		return nil, nil, err
	}
	img, err := lease.Use(ctx, name)
	if err != nil {
		return nil, nil, errors.Join(err, lease.Close())
	}
	return img, lease, nil
}

// maxConfig is how long the configuration of an image may be, as with pull.
const maxConfig = 8 << 20

// ImageConfig reads the configuration of an image.
func (s *Service) ImageConfig(img *store.Image) (*ocispec.Image, error) {
	text, err := s.Store.ReadBlob(img.Config.Digest, maxConfig)
	if err != nil {
		return nil, err
	}
	c := new(ocispec.Image)
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("configuration of image %s: %w", img.Name, err)
	}
	return c, nil
}

// Export writes an image as an OCI archive to w.
func (s *Service) Export(ctx context.Context, text string, w io.Writer) error {
	img, err := s.Find(text)
	if err != nil {
		return err
	}
	img, lease, err := s.use(ctx, img.Name)
	if err != nil {
		return err
	}
	return errors.Join(archive.Export(ctx, s.Store, img, w), lease.Close())
}

// Remove takes the names from images: the name that is given, or all names of
// an id. Those that a container uses are kept, with store.ErrInUse, unless it is
// forced; their content stays then for as long as the container does.
func (s *Service) Remove(ctx context.Context, text string, force bool) ([]string, error) {
	images, err := s.find(text)
	if err != nil {
		return nil, err
	}
	if !force {
		users, err := s.users()
		if err != nil {
			return nil, err
		}
		if c := users[images[0].Manifest.Digest]; c != nil {
			return nil, fmt.Errorf("%s: %w: container %s", text, store.ErrInUse, strings.Join(c, ", "))
		}
	}
	var names []string
	for _, img := range images {
		err := s.Store.RemoveImage(ctx, img.Name)
		if errors.Is(err, store.ErrNotExist) {
			continue // somebody else was first
		}
		if err != nil {
			return names, err
		}
		names = append(names, img.Name)
	}
	return names, nil
}

// users lists the containers that use images, by the manifest.
func (s *Service) users() (map[digest.Digest][]string, error) {
	pins, err := s.Store.Pins()
	if err != nil {
		return nil, err
	}
	users := map[digest.Digest][]string{}
	for _, p := range pins {
		users[p.Image.Manifest.Digest] = append(users[p.Image.Manifest.Digest], p.Container)
	}
	return users, nil
}

// Prune takes the names from all images that no container uses.
func (s *Service) Prune(ctx context.Context) ([]string, error) {
	images, err := s.Store.Images()
	if err != nil {
		return nil, err
	}
	users, err := s.users()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, img := range images {
		if users[img.Manifest.Digest] != nil {
			continue
		}
		err := s.Store.RemoveImage(ctx, img.Name)
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			return names, err
		}
		names = append(names, img.Name)
	}
	return names, nil
}

// Fsck checks the store; with content it reads everything, and makes every
// layer again.
func (s *Service) Fsck(ctx context.Context, content, repair bool) ([]store.Problem, error) {
	return s.Store.Fsck(ctx, store.FsckOptions{Content: content, Repair: repair, Unpack: pull.Remake(s.Store)})
}
