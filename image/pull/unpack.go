package pull

import (
	"context"
	"fmt"
	"os"

	"github.com/vc-runtime/vc-runtime/image/layer"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// UnpackLayer makes the erofs image of a layer.
func UnpackLayer(ctx context.Context, blob *os.File, mediaType string, dst *os.File) (store.Made, error) {
	res, err := layer.Unpack(ctx, layer.Blob{Reader: blob, MediaType: mediaType}, dst, layer.DefaultLimits())
	if err != nil {
		return store.Made{}, err
	}
	if len(res.DiffIDs) != 1 {
		return store.Made{}, fmt.Errorf("%d diff ids of one layer", len(res.DiffIDs))
	}
	return store.Made{DiffID: res.DiffIDs[0], Inodes: res.Inodes, OpaqueRoot: res.OpaqueRoot}, nil
}
