package qemu

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// PlugDisks is hypervisor.VM. The disks are the functions of one PCI device: a
// guest that finds a device in a slot looks at all its functions at once, so
// that many disks take it no longer than one. If a plug fails and cannot be
// undone, because QEMU or the guest does not answer, its slot stays taken.
func (v *vm) PlugDisks(ctx context.Context, disks []hypervisor.Disk) (hypervisor.Device, error) {
	if err := checkDisks(disks); err != nil {
		return nil, fmt.Errorf("plug disks: %w", err)
	}
	d, err := v.takeSlot("disk", 2*len(disks)) // queue and configuration of each
	if err != nil {
		return nil, fmt.Errorf("plug disks: %w", err)
	}
	d.removeBackend = func(ctx context.Context) error { return d.removeNodes(ctx, len(disks)) }
	if err := d.plugDisks(ctx, disks); err != nil {
		return nil, fmt.Errorf("plug disks: %w", v.explain(err))
	}
	return d, nil
}

func checkDisks(disks []hypervisor.Disk) error {
	if n := len(disks); n == 0 || n > hypervisor.MaxDisks {
		return fmt.Errorf("%d disks: expected 1 to %d", n, hypervisor.MaxDisks)
	}
	serials := make(map[string]bool)
	for _, disk := range disks {
		switch {
		case disk.Serial == "" || len(disk.Serial) > hypervisor.MaxSerial:
			return fmt.Errorf("serial number %q: expected 1 to %d bytes", disk.Serial, hypervisor.MaxSerial)
		case serials[disk.Serial]:
			return fmt.Errorf("serial number %q: two disks have it", disk.Serial)
		}
		serials[disk.Serial] = true
	}
	return nil
}

// plugDisks makes the files, the block nodes and the devices, or none of them.
// Function 0 comes last: it is what makes QEMU tell the guest (QEMU:
// hw/pci/pci.c, pci_qdev_realize).
func (d *device) plugDisks(ctx context.Context, disks []hypervisor.Disk) error {
	q := d.vm.qmp
	forget := func(ctx context.Context) error { return d.forgetDisks(ctx, len(disks)) }
	for i, disk := range disks {
		kind, err := driverOf(disk)
		if err != nil {
			return errors.Join(err, rollBack(ctx, forget))
		}
		if err := q.AddFile(ctx, d.fileSet(i), disk.File); err != nil {
			return errors.Join(err, rollBack(ctx, forget))
		}
		if err := q.Execute(ctx, "blockdev-add", blockdevAdd(d.function(i), d.fileSet(i), kind, disk), nil); err != nil {
			return errors.Join(err, rollBack(ctx, forget))
		}
	}
	for i := len(disks) - 1; i >= 0; i-- {
		err := q.Execute(ctx, "device_add", diskAdd(d.function(i), d.slot, i, len(disks) > 1, disks[i]), nil)
		switch {
		case err == nil:
		case isRefusal(err):
			return errors.Join(err, rollBack(ctx, forget))
		default:
			return errors.Join(err, rollBack(ctx, d.Unplug))
		}
	}
	return nil
}

// function is the id of the n-th disk, which is also that of its block node.
// The first one's is the device's: its removal tells that of all.
func (d *device) function(n int) string {
	if n == 0 {
		return d.id
	}
	return d.id + "." + strconv.Itoa(n)
}

// fileSet is the number of the n-th disk's file in QEMU.
func (d *device) fileSet(n int) int { return d.serial*hypervisor.MaxDisks + n }

// nodeRetry is how long a disk's node may still be busy after its device has
// gone: QEMU frees devices a moment later (RCU), and tells of the first only.
const nodeRetry = 5 * time.Millisecond

// removeNodes closes QEMU's copies of the files.
func (d *device) removeNodes(ctx context.Context, disks int) error {
	for i := range disks {
		for {
			err := d.vm.qmp.Execute(ctx, "blockdev-del", nodeArgs{d.function(i)}, nil)
			if err == nil {
				break
			}
			if !isRefusal(err) {
				return err
			}
			select {
			case <-time.After(nodeRetry):
			case <-ctx.Done():
				return fmt.Errorf("close disk %d: %w", i, err)
			}
		}
		if err := d.vm.qmp.Execute(ctx, "remove-fd", fileSetArgs{d.fileSet(i)}, nil); err != nil {
			return err
		}
	}
	return nil
}

// forgetDisks drops the devices that the guest has not been told of, the nodes
// and the files, whichever of them QEMU has, and frees the slot.
func (d *device) forgetDisks(ctx context.Context, disks int) error {
	for i := range disks {
		for _, step := range []struct {
			command string
			args    any
		}{
			{"device_del", idArgs{d.function(i)}},
			{"blockdev-del", nodeArgs{d.function(i)}},
			{"remove-fd", fileSetArgs{d.fileSet(i)}},
		} {
			err := d.vm.qmp.Execute(ctx, step.command, step.args, nil)
			if err != nil && !isRefusal(err) { // refused: there is none
				return err
			}
		}
	}
	d.freeSlot()
	return nil
}

// driverOf is QEMU's name for what a disk's file is.
func driverOf(disk hypervisor.Disk) (string, error) {
	var st unix.Stat_t
	raw, err := disk.File.SyscallConn()
	if err != nil {
		return "", fmt.Errorf("disk %s: %w", disk.Serial, err)
	}
	var statErr error
	if err := raw.Control(func(fd uintptr) { statErr = unix.Fstat(int(fd), &st) }); err != nil {
		return "", fmt.Errorf("disk %s: %w", disk.Serial, err)
	}
	if statErr != nil {
		return "", fmt.Errorf("disk %s: stat: %w", disk.Serial, statErr)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return "file", nil
	case unix.S_IFBLK:
		return "host_device", nil
	}
	return "", fmt.Errorf("disk %s: %s is neither a file nor a block device", disk.Serial, disk.File.Name())
}

// nodeArgs are the arguments of blockdev-del.
type nodeArgs struct {
	Node string `json:"node-name"`
}

// fileSetArgs are the arguments of remove-fd.
type fileSetArgs struct {
	Set int `json:"fdset-id"`
}

// blockdevAddArgs is qapi/block-core.json's blockdev-add of a raw image: its
// format is never guessed, as the guest writes it.
type blockdevAddArgs struct {
	Driver   string    `json:"driver"`
	Node     string    `json:"node-name"`
	ReadOnly bool      `json:"read-only"`
	Discard  string    `json:"discard"`
	Cache    cacheArgs `json:"cache"`
	File     fileArgs  `json:"file"`
}

type cacheArgs struct {
	NoFlush bool `json:"no-flush"`
}

type fileArgs struct {
	Driver   string `json:"driver"`
	Filename string `json:"filename"`
}

func blockdevAdd(node string, set int, driver string, disk hypervisor.Disk) blockdevAddArgs {
	return blockdevAddArgs{
		Driver: "raw", Node: node, ReadOnly: disk.ReadOnly,
		Discard: "unmap", // what the guest frees is freed on the host
		Cache:   cacheArgs{NoFlush: disk.Volatile},
		File:    fileArgs{Driver: driver, Filename: "/dev/fdset/" + strconv.Itoa(set)},
	}
}

// diskAddArgs make a virtio-blk-pci. An error of the host, a full disk say, is
// one for the guest: QEMU's default would stop the machine and wait.
type diskAddArgs struct {
	Driver        string `json:"driver"`
	ID            string `json:"id"`
	Bus           string `json:"bus"`
	Addr          string `json:"addr"`
	Multifunction bool   `json:"multifunction,omitempty"`
	Drive         string `json:"drive"`
	Serial        string `json:"serial"`
	ReadError     string `json:"rerror"`
	WriteError    string `json:"werror"`
}

func diskAdd(id string, slot, function int, multifunction bool, disk hypervisor.Disk) diskAddArgs {
	return diskAddArgs{
		Driver: "virtio-blk-pci", ID: id, Bus: portID(slot), Addr: fmt.Sprintf("0.%d", function),
		Multifunction: multifunction && function == 0, Drive: id, Serial: disk.Serial,
		ReadError: "report", WriteError: "report",
	}
}
