package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// PlugNIC is hypervisor.VM. If a plug fails and cannot be undone, because QEMU
// or the guest does not answer, its slot stays taken.
func (v *vm) PlugNIC(ctx context.Context, nic hypervisor.NIC) (hypervisor.Device, error) {
	if err := checkNIC(nic); err != nil {
		return nil, fmt.Errorf("plug network interface: %w", err)
	}
	d, err := v.takeSlot("nic", 2*len(nic.Taps)+2) // queues, control, configuration
	if err != nil {
		return nil, fmt.Errorf("plug network interface: %w", err)
	}
	d.removeBackend = d.removeNetdev
	if err := d.plugNIC(ctx, nic); err != nil {
		return nil, fmt.Errorf("plug network interface: %w", v.explain(err))
	}
	return d, nil
}

func checkNIC(nic hypervisor.NIC) error {
	switch {
	case len(nic.Taps) == 0:
		return errors.New("no tap")
	case len(nic.Vhost) != 0 && len(nic.Vhost) != len(nic.Taps):
		return fmt.Errorf("%d vhost instances for %d queues", len(nic.Vhost), len(nic.Taps))
	case len(nic.MAC) != 6:
		return fmt.Errorf("hardware address %q: not 6 bytes", nic.MAC)
	}
	return nil
}

// plugNIC makes the fds, the netdev and the device, or none of them.
func (d *device) plugNIC(ctx context.Context, nic hypervisor.NIC) error {
	q := d.vm.qmp
	taps, vhost := fdNames(d.id+"tap", nic.Taps), fdNames(d.id+"vhost", nic.Vhost)
	names, files := slices.Concat(taps, vhost), slices.Concat(nic.Taps, nic.Vhost)
	forget := func(ctx context.Context) error { return d.forgetNetdev(ctx, names) }
	for i, name := range names {
		if err := q.SendFile(ctx, name, files[i]); err != nil {
			return errors.Join(err, rollBack(ctx, forget))
		}
	}
	if err := q.Execute(ctx, "netdev_add", netdevAdd(d.id, taps, vhost), nil); err != nil {
		return errors.Join(err, rollBack(ctx, forget))
	}
	if err := q.Execute(ctx, "device_add", nicAdd(d.id, nic.MAC, len(taps), d.slot), nil); err != nil {
		if isRefusal(err) {
			return errors.Join(err, rollBack(ctx, forget))
		}
		return errors.Join(err, rollBack(ctx, d.Unplug))
	}
	return nil
}

// removeNetdev closes QEMU's copies of the taps.
func (d *device) removeNetdev(ctx context.Context) error {
	return d.vm.qmp.Execute(ctx, "netdev_del", idArgs{d.id}, nil)
}

// forgetNetdev drops the netdev and the fds, whichever of them QEMU has, and
// frees the slot, in which there never was a device.
func (d *device) forgetNetdev(ctx context.Context, fds []string) error {
	errs := []error{d.removeNetdev(ctx)}
	for _, name := range fds {
		errs = append(errs, d.vm.qmp.Execute(ctx, "closefd", closefdArgs{name}, nil))
	}
	for _, err := range errs {
		if err != nil && !isRefusal(err) { // refused: there is none
			return err
		}
	}
	d.freeSlot()
	return nil
}

// fdNames are the names under which QEMU is given files.
func fdNames(prefix string, files []*os.File) []string {
	var names []string
	for i := range files {
		names = append(names, fmt.Sprintf("%s%d", prefix, i))
	}
	return names
}

// netdevAddArgs is qapi/net.json's netdev_add of a tap; lists are separated by
// colons.
type netdevAddArgs struct {
	Type     string `json:"type"`
	ID       string `json:"id"`
	Fds      string `json:"fds"`
	Vhost    bool   `json:"vhost,omitempty"`
	VhostFds string `json:"vhostfds,omitempty"`
}

func netdevAdd(id string, taps, vhost []string) netdevAddArgs {
	return netdevAddArgs{
		Type: "tap", ID: id, Fds: strings.Join(taps, ":"),
		Vhost: len(vhost) > 0, VhostFds: strings.Join(vhost, ":"),
	}
}

// nicAddArgs make a virtio-net-pci. It has no option ROM, which only a
// firmware that boots from the network would read, and no link status: a driver
// that has to ask for it finds its link down at first, and it can take Linux a
// second then (net/core/link_watch.c) to tell IPv6 that it is up.
type nicAddArgs struct {
	Driver  string `json:"driver"`
	ID      string `json:"id"`
	Bus     string `json:"bus"`
	Netdev  string `json:"netdev"`
	MAC     string `json:"mac"`
	ROM     string `json:"romfile"`
	Status  bool   `json:"status"`
	MQ      bool   `json:"mq,omitempty"`
	Vectors int    `json:"vectors,omitempty"`
}

func nicAdd(id string, mac net.HardwareAddr, queues, slot int) nicAddArgs {
	a := nicAddArgs{Driver: "virtio-net-pci", ID: id, Bus: portID(slot), Netdev: id, MAC: mac.String()}
	if queues > 1 {
		// One for each queue's two directions, control and configuration.
		a.MQ, a.Vectors = true, 2*queues+2
	}
	return a
}
