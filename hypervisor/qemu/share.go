package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qmp"
	"github.com/vc-runtime/vc-runtime/trace"
)

// rollbackLimit bounds the undoing of a plug that went wrong.
const rollbackLimit = 10 * time.Second

// device is something in a root port. Its id is also that of the backend
// (chardev, netdev) that it has in QEMU.
type device struct {
	vm   *vm
	id   string
	slot int
	// serial tells the device from all that the machine ever had.
	serial int
	// events says when QEMU has removed the device, or that the guest refuses.
	events *qmp.Subscription
	// removeBackend is called when the device has left the machine.
	removeBackend func(context.Context) error
	// busy holds one token; who has it may unplug.
	busy chan struct{}

	// Guarded by busy.
	asked bool // the guest has been asked to let go
	gone  bool // the slot is free again
}

// PlugShare is hypervisor.VM. If a plug fails and cannot be undone, because
// QEMU or the guest does not answer, its slot stays taken.
//
// QEMU does nothing else while it greets the file server: one that does not
// answer stops the whole machine.
func (v *vm) PlugShare(ctx context.Context, tag string, socket *os.File) (hypervisor.Device, error) {
	defer trace.Begin(ctx, trace.Phase, "plug the share").End()
	d, err := v.takeSlot("share", 3) // two queues, configuration
	if err != nil {
		return nil, fmt.Errorf("plug share %s: %w", tag, err)
	}
	d.removeBackend = d.removeChardev
	if err := d.plug(ctx, tag, socket); err != nil {
		return nil, fmt.Errorf("plug share %s: %w", tag, v.explain(err))
	}
	return d, nil
}

// plug makes the fd, the chardev and the device, or none of them.
func (d *device) plug(ctx context.Context, tag string, socket *os.File) error {
	q := d.vm.qmp
	if err := q.SendFile(ctx, d.id, socket); err != nil {
		return errors.Join(err, rollBack(ctx, d.forgetFile))
	}
	if err := q.Execute(ctx, "chardev-add", chardevAdd(d.id), nil); err != nil {
		return errors.Join(err, rollBack(ctx, d.forgetFile))
	}
	if err := q.Execute(ctx, "device_add", deviceAdd(d.id, tag, d.slot), nil); err != nil {
		if isRefusal(err) {
			return errors.Join(err, rollBack(ctx, d.forgetFile))
		}
		return errors.Join(err, rollBack(ctx, d.Unplug))
	}
	return nil
}

// rollBack runs one step of undoing. When ctx has ended the caller cannot wait
// for it any more, and QEMU probably hangs: the step then goes on by itself,
// to its limit or the end of QEMU.
func rollBack(ctx context.Context, step func(context.Context) error) error {
	stepCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackLimit)
	if ctx.Err() != nil {
		go func() {
			defer cancel()
			_ = step(stepCtx) // if it fails the slot stays taken
		}()
		return nil
	}
	defer cancel()
	return step(stepCtx)
}

// Unplug is hypervisor.Device. It can be called again after an error; after a
// success it does nothing.
func (d *device) Unplug(ctx context.Context) error {
	select {
	case <-d.busy:
		defer func() { d.busy <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("unplug %s: another call is at it: %w", d.id, ctx.Err())
	}
	if d.gone {
		return nil
	}
	if err := d.unplug(ctx); err != nil {
		return fmt.Errorf("unplug %s: %w", d.id, d.vm.explain(err))
	}
	return nil
}

func (d *device) unplug(ctx context.Context) error {
	for len(d.events.C) > 0 {
		<-d.events.C // of an earlier call; a removal shows below as well
	}
	err := d.vm.qmp.Execute(ctx, "device_del", idArgs{d.id}, nil)
	switch {
	case isRefusedAs(err, "DeviceNotFound"): // the guest let go of it unasked
		return d.removed(ctx)
	case isRefusal(err) && d.asked: // "is already in the process of unplug"
	case err != nil:
		return err
	}
	d.asked = true
	for {
		select {
		case e := <-d.events.C:
			if e.Name == eventDeleted {
				return d.removed(ctx)
			}
			d.asked = false
			return errors.New("the guest refuses to let go of the device")
		case <-d.vm.qmp.Done():
			return d.vm.qmp.Err()
		case <-ctx.Done():
			return fmt.Errorf("the guest does not let go of the device: %w", ctx.Err())
		}
	}
}

// removed takes away what the device was made of and frees the slot.
func (d *device) removed(ctx context.Context) error {
	if err := d.removeBackend(ctx); err != nil {
		return err
	}
	d.freeSlot()
	return nil
}

// removeChardev ends the connection to the file server.
func (d *device) removeChardev(ctx context.Context) error {
	return d.vm.qmp.Execute(ctx, "chardev-remove", idArgs{d.id}, nil)
}

// forgetFile drops the fd and the chardev, whichever of them QEMU has, and
// frees the slot, in which there never was a device.
func (d *device) forgetFile(ctx context.Context) error {
	for _, err := range []error{
		d.vm.qmp.Execute(ctx, "chardev-remove", idArgs{d.id}, nil),
		d.vm.qmp.Execute(ctx, "closefd", closefdArgs{d.id}, nil),
	} {
		if err != nil && !isRefusal(err) { // refused: there is none
			return err
		}
	}
	d.freeSlot()
	return nil
}

// takeSlot makes a device that is not plugged yet; kind begins its id, and it has
// that many interrupts.
func (v *vm) takeSlot(kind string, interrupts int) (*device, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	slot, err := freeSlot(v.slots, v.cpus, interrupts)
	if err != nil {
		return nil, err
	}
	v.slots[slot].interrupts = interrupts
	v.plugged++
	d := &device{vm: v, slot: slot, serial: v.plugged, id: fmt.Sprintf("%s%d", kind, v.plugged), busy: make(chan struct{}, 1)}
	d.busy <- struct{}{}
	// Room for a refusal that nobody waits for any more, and the removal.
	d.events = v.qmp.Subscribe(2, d.concerns)
	return d, nil
}

// interruptsPerCPU are for what is plugged. A processor has vectors for about 185
// (Linux 6.1, arch/x86/include/asm/irq_vectors.h: 256 without exceptions, the old
// ones and its own), of which a few are for what the machine starts with. A device
// that gets none falls silent, and whoever waits for it waits for ever.
const interruptsPerCPU = 170

// slot is a root port.
type slot struct {
	interrupts int // of what is in it; 0 is free
	freed      int // how many were freed until it was, the last time; 0 is never
}

// freeSlot finds a slot for a device with that many interrupts: of those that are
// free the one that is for the longest time. A guest may be told to let go of a device
// twice (QEMU tells it of all removals that are pending with each device that comes or
// goes: hw/acpi/pcihp.c and the table's PCNT method, QEMU 7.2), and then has QEMU
// remove whatever is in that slot when it comes to the second time.
func freeSlot(slots []slot, cpus, interrupts int) (int, error) {
	free, taken := -1, 0
	for i, s := range slots {
		if taken += s.interrupts; s.interrupts == 0 && (free < 0 || s.freed < slots[free].freed) {
			free = i
		}
	}
	switch {
	case free < 0:
		return 0, hypervisor.ErrNoSlot
	case taken+interrupts > cpus*interruptsPerCPU:
		return 0, fmt.Errorf("%w: %d of %d are taken, the device has %d", hypervisor.ErrNoInterrupt, taken, cpus*interruptsPerCPU, interrupts)
	}
	return free, nil
}

func (d *device) freeSlot() {
	d.events.Close()
	d.gone = true
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	d.vm.freed++
	d.vm.slots[d.slot] = slot{freed: d.vm.freed}
}

// Events about devices (QEMU: qapi/qdev.json).
const (
	eventDeleted = "DEVICE_DELETED"
	eventRefused = "DEVICE_UNPLUG_GUEST_ERROR"
)

// concerns reports whether an event is about the removal of d.
func (d *device) concerns(e qmp.Event) bool {
	if e.Name != eventDeleted && e.Name != eventRefused {
		return false
	}
	var about struct {
		Device string `json:"device"`
	}
	return json.Unmarshal(e.Data, &about) == nil && about.Device == d.id
}

func isRefusal(err error) bool {
	var refused *qmp.Error
	return errors.As(err, &refused)
}

func isRefusedAs(err error, class string) bool {
	var refused *qmp.Error
	return errors.As(err, &refused) && refused.Class == class
}

// idArgs are the arguments of device_del, chardev-remove and netdev_del.
type idArgs struct {
	ID string `json:"id"`
}

// closefdArgs drop a file that nothing in QEMU has taken.
type closefdArgs struct {
	Name string `json:"fdname"`
}

// chardevAddArgs is qapi/char.json's chardev-add of a socket that is given as
// the fd of the same name.
type chardevAddArgs struct {
	ID      string `json:"id"`
	Backend struct {
		Type string `json:"type"`
		Data struct {
			Addr struct {
				Type string `json:"type"`
				Data struct {
					Str string `json:"str"`
				} `json:"data"`
			} `json:"addr"`
			Server bool `json:"server"`
		} `json:"data"`
	} `json:"backend"`
}

func chardevAdd(id string) chardevAddArgs {
	var a chardevAddArgs
	a.ID = id
	a.Backend.Type = "socket"
	a.Backend.Data.Addr.Type = "fd"
	a.Backend.Data.Addr.Data.Str = id
	return a
}

type deviceAddArgs struct {
	Driver  string `json:"driver"`
	ID      string `json:"id"`
	Bus     string `json:"bus"`
	Chardev string `json:"chardev"`
	Tag     string `json:"tag"`
}

func deviceAdd(id, tag string, slot int) deviceAddArgs {
	return deviceAddArgs{Driver: "vhost-user-fs-pci", ID: id, Bus: portID(slot), Chardev: id, Tag: tag}
}
