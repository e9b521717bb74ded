package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/disk"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// plugDisks attaches the disks that a container's rootfs is made of and the
// block devices that it gets, and tells the guest which is which.
func (c *container) plugDisks(ctx context.Context, m *Machine, req *monitor.Request, guest *api.CreateContainerRequest) error {
	var disks []hypervisor.Disk
	defer func() {
		for _, d := range disks {
			d.File.Close() // the VM has its own
		}
	}()
	open := func(d disk.Disk) (serial string, err error) {
		f, err := d.Open()
		if err != nil {
			return "", err
		}
		serial = fmt.Sprintf("%s-%d", c.number, len(disks))
		disks = append(disks, hypervisor.Disk{File: f, Serial: serial, ReadOnly: d.ReadOnly, Volatile: d.Volatile})
		return serial, nil
	}
	if img := req.Image; img != nil {
		guest.Root, guest.Files, guest.User = &api.LayeredRoot{}, img.Files, img.User
		for _, path := range img.Layers {
			serial, err := open(disk.Disk{Image: path, ReadOnly: true})
			if err != nil {
				return fmt.Errorf("layer of the image: %w", err)
			}
			guest.Root.Layers = append(guest.Root.Layers, serial)
		}
		var err error
		if guest.Root.Upper, err = open(disk.Disk{Image: img.Upper, Volatile: true}); err != nil {
			return fmt.Errorf("the container's own layer: %w", err)
		}
	}
	for _, d := range req.Disks {
		serial, err := open(d)
		if err != nil {
			return err
		}
		guest.Disks = append(guest.Disks, &api.DiskNode{
			Serial: serial, Path: d.Node.Path, Access: d.Node.Access,
			Mode: uint32(d.Node.Mode.Perm()), Uid: d.Node.UID, Gid: d.Node.GID,
		})
	}
	for some := range slices.Chunk(disks, hypervisor.MaxDisks) {
		if err := failpoint.Here(failpoint.MonitorPlugDisks); err != nil {
			return err
		}
		dev, err := m.VM.PlugDisks(ctx, some)
		if errors.Is(err, hypervisor.ErrNoSlot) || errors.Is(err, hypervisor.ErrNoInterrupt) {
			return fmt.Errorf("%w: %d disks want %d of hypervisor.hotplug_slots; an image has image.max_layers at most",
				err, len(disks), (len(disks)+hypervisor.MaxDisks-1)/hypervisor.MaxDisks)
		}
		if err != nil {
			return err
		}
		c.plugged(dev)
	}
	return nil
}
