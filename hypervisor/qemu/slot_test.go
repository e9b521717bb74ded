package qemu

import (
	"errors"
	"slices"
	"testing"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// A device needs a slot, and interrupts that the guest's processors have: without
// one of its own a disk falls silent.
func TestFreeSlot(t *testing.T) {
	with := func(interrupts ...int) (slots []slot) {
		for _, n := range interrupts {
			slots = append(slots, slot{interrupts: n})
		}
		return slots
	}
	full := with(slices.Repeat([]int{16}, 10)...) // 80 disks
	for name, c := range map[string]struct {
		slots      []slot
		cpus, want int
		slot       int
		err        error
	}{
		"empty":                   {with(0, 0), 1, 16, 0, nil},
		"first":                   {with(3, 0, 16, 0), 1, 16, 1, nil},
		"no slot":                 {with(3, 4), 1, 16, 0, hypervisor.ErrNoSlot},
		"none at all":             {nil, 1, 3, 0, hypervisor.ErrNoSlot},
		"last interrupts":         {append(full[:10:10], slot{}), 1, 10, 10, nil},
		"no interrupts":           {append(full[:10:10], slot{}), 1, 11, 0, hypervisor.ErrNoInterrupt},
		"for a second CPU":        {append(full[:10:10], slot{}), 2, 11, 10, nil},
		"neither":                 {full, 1, 16, 0, hypervisor.ErrNoSlot},
		"those in higher slots":   {append(with(0), full...), 1, 11, 0, hypervisor.ErrNoInterrupt},
		"freed in between, again": {with(16, 0, 16), 1, 2, 1, nil},
		"never taken":             {[]slot{{freed: 1}, {}, {freed: 2}}, 1, 2, 1, nil},
		"free for longest":        {[]slot{{freed: 3}, {interrupts: 3, freed: 1}, {freed: 2}}, 1, 2, 2, nil},
	} {
		if slot, err := freeSlot(c.slots, c.cpus, c.want); slot != c.slot || !errors.Is(err, c.err) {
			t.Errorf("%s: slot %d, %v; want %d, %v", name, slot, err, c.slot, c.err)
		}
	}
}

// TestSlotRests: a device does not come where one has just gone. A guest that lets go
// of that one a second time has QEMU remove what is there.
func TestSlotRests(t *testing.T) {
	cfg := fakeConfig(t, "slots")
	cfg.HotplugSlots = 3
	started, err := Driver{}.Start(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	v := started.(*vm)
	t.Cleanup(func() { v.Kill(); v.Channel().Close() })
	var got []int
	for range 7 {
		d := plug(t, v)
		if err := d.Unplug(testContext(t)); err != nil {
			t.Fatal(err)
		}
		got = append(got, d.(*device).slot)
	}
	if want := []int{0, 1, 2, 0, 1, 2, 0}; !slices.Equal(got, want) {
		t.Errorf("slots %v, want %v", got, want)
	}
}
