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
	full := slices.Repeat([]int{16}, 10) // 80 disks
	for name, c := range map[string]struct {
		slots      []int
		cpus, want int
		slot       int
		err        error
	}{
		"empty":                   {[]int{0, 0}, 1, 16, 0, nil},
		"first":                   {[]int{3, 0, 16, 0}, 1, 16, 1, nil},
		"no slot":                 {[]int{3, 4}, 1, 16, 0, hypervisor.ErrNoSlot},
		"none at all":             {nil, 1, 3, 0, hypervisor.ErrNoSlot},
		"last interrupts":         {append(full[:10:10], 0), 1, 10, 10, nil},
		"no interrupts":           {append(full[:10:10], 0), 1, 11, 0, hypervisor.ErrNoInterrupt},
		"for a second CPU":        {append(full[:10:10], 0), 2, 11, 10, nil},
		"neither":                 {full, 1, 16, 0, hypervisor.ErrNoSlot},
		"those in higher slots":   {append([]int{0}, full...), 1, 11, 0, hypervisor.ErrNoInterrupt},
		"freed in between, again": {[]int{16, 0, 16}, 1, 2, 1, nil},
	} {
		if slot, err := freeSlot(c.slots, c.cpus, c.want); slot != c.slot || !errors.Is(err, c.err) {
			t.Errorf("%s: slot %d, %v; want %d, %v", name, slot, err, c.slot, c.err)
		}
	}
}
