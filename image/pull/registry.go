package pull

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
)

// FromRegistry is the source of an image in a registry.
func FromRegistry(repo *registry.Repository, r ref.Reference) Source {
	return &remote{Repository: repo, ref: r}
}

type remote struct {
	*registry.Repository
	ref ref.Reference
}

func (r *remote) Resolve(ctx context.Context) (digest.Digest, error) {
	if r.ref.Digest != "" {
		return r.ref.Digest, nil
	}
	return r.Repository.Resolve(ctx, r.ref.Tag)
}

func (r *remote) Manifest(ctx context.Context, d digest.Digest, limit int64) (*registry.Manifest, error) {
	if d == "" {
		return r.Repository.Manifest(ctx, r.ref.Tag, limit)
	}
	return r.Repository.Manifest(ctx, d.String(), limit)
}
