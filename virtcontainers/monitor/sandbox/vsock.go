package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// chooseChannel sets whether the machine has a vsock device: as configured, or
// where check has nothing against it.
func chooseChannel(channel config.Channel, vm *hypervisor.Config, check func() error) (notices []string, err error) {
	if channel == config.ChannelSerial {
		return nil, nil
	}
	if err = failpoint.Here(failpoint.MonitorCheckVsock); err == nil {
		err = check()
	}
	vm.Vsock = err == nil
	switch {
	case err == nil:
		return nil, nil
	case channel == config.ChannelVsock:
		return nil, fmt.Errorf("hypervisor.channel = %q: %w; load the kernel module vhost_vsock, or set it to %q",
			config.ChannelVsock, err, config.ChannelAuto)
	case errors.Is(err, fs.ErrNotExist): // most hosts have none: no news
		return nil, nil
	}
	return []string{serialInstead(err)}, nil
}

// serialInstead is what the user is told where vsock should work, and does not.
func serialInstead(err error) string {
	return fmt.Sprintf("the agent is talked to over virtio-serial: %v", err)
}

// dropVsock makes it a machine without vsock, where err says that there can be
// none with, and reports whether it is worth to try that one.
func (b *booting) dropVsock(ctx context.Context, err error) bool {
	if !errors.Is(err, hypervisor.ErrVsock) || b.hv.Channel != config.ChannelAuto || ctx.Err() != nil {
		return false
	}
	b.machine.Vsock = false
	return true
}

// vsock is how the client gets to the agent over vsock; nil if it does not.
func (b *booting) vsock(vm hypervisor.VM) *client.Vsock {
	if !b.machine.Vsock {
		return nil
	}
	v := &client.Vsock{Dial: vm.DialVsock, Required: b.hv.Channel == config.ChannelVsock}
	if !v.Required {
		v.Limit = b.cloneLimit() / 2 // there must be time to do without it
	}
	return v
}
