package hypertest

import (
	"context"
	"errors"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// PlugDisks is hypervisor.VM. To the fake it is a share with the tag "disk "
// and the first disk's serial number, of which it keeps the file.
func (v *VM) PlugDisks(ctx context.Context, disks []hypervisor.Disk) (hypervisor.Device, error) {
	if len(disks) == 0 || len(disks) > hypervisor.MaxDisks {
		return nil, errors.New("plug disks: too few or too many")
	}
	return v.PlugShare(ctx, "disk "+disks[0].Serial, disks[0].File)
}
