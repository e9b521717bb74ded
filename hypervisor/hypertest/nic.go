package hypertest

import (
	"context"
	"fmt"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// PlugNIC is hypervisor.VM. To the fake it is a share with the tag "nic " and
// the hardware address, of which it keeps the first queue's file.
func (v *VM) PlugNIC(ctx context.Context, nic hypervisor.NIC) (hypervisor.Device, error) {
	if len(nic.Taps) == 0 {
		return nil, fmt.Errorf("plug network interface %s: no tap", nic.MAC)
	}
	return v.PlugShare(ctx, "nic "+nic.MAC.String(), nic.Taps[0])
}
