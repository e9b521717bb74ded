package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// memorySlots is how many times memory can be plugged. A file server maps each
// piece by itself, and one that does not negotiate it takes eight at most, the
// machine's first two included (QEMU: VHOST_MEMORY_BASELINE_NREGIONS).
const memorySlots = 6

// AddMemory is hypervisor.VM. It plugs a DIMM. What QEMU refuses is undone.
func (v *vm) AddMemory(ctx context.Context, mib int) error {
	if mib <= 0 || mib%hypervisor.MemoryStep != 0 {
		return fmt.Errorf("plug %d MiB of memory: not a multiple of %d", mib, hypervisor.MemoryStep)
	}
	n, err := v.takeDIMM()
	if err != nil {
		return fmt.Errorf("plug %d MiB of memory: %w", mib, err)
	}
	backend, dimm := fmt.Sprintf("mem%d", n), fmt.Sprintf("dimm%d", n)
	// Shared, as the memory of the start: see Args.
	err = v.qmp.Execute(ctx, "object-add", memoryBackendArgs{"memory-backend-memfd", backend, int64(mib) << 20, true}, nil)
	if err == nil {
		if err = v.qmp.Execute(ctx, "device_add", dimmArgs{"pc-dimm", dimm, backend}, nil); isRefusal(err) {
			err = errors.Join(err, rollBack(ctx, func(ctx context.Context) error {
				return v.qmp.Execute(ctx, "object-del", idArgs{backend}, nil)
			}))
		}
	}
	if err != nil {
		return fmt.Errorf("plug %d MiB of memory: %w", mib, v.explain(err))
	}
	return nil
}

// takeDIMM gives the number of the next DIMM. One that could not be plugged is
// not tried again: without an answer of QEMU it may be there.
func (v *vm) takeDIMM() (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.dimms == memorySlots {
		return 0, hypervisor.ErrNoSlot
	}
	v.dimms++
	return v.dimms, nil
}

// AddCPUs is hypervisor.VM.
func (v *vm) AddCPUs(ctx context.Context, count int) error {
	var slots []cpuSlot
	if err := v.qmp.Execute(ctx, "query-hotpluggable-cpus", nil, &slots); err != nil {
		return fmt.Errorf("plug %d CPUs: %w", count, v.explain(err))
	}
	// QEMU lists the last one first, and gives the guest's kernel the numbers
	// in the other order.
	for i := len(slots) - 1; i >= 0 && count > 0; i-- {
		slot := slots[i]
		if slot.Path != "" { // there is one
			continue
		}
		args := cpuArgs{"driver": slot.Type, "id": fmt.Sprintf("cpu%d", i)}
		for name, value := range slot.Props {
			args[name] = value
		}
		if err := v.qmp.Execute(ctx, "device_add", args, nil); err != nil {
			return fmt.Errorf("plug a CPU: %w", v.explain(err))
		}
		count--
	}
	if count > 0 {
		return fmt.Errorf("plug CPUs: %d too many: %w", count, hypervisor.ErrNoSlot)
	}
	return nil
}

// memoryBackendArgs are the arguments of object-add for a memory-backend-memfd.
type memoryBackendArgs struct {
	Type  string `json:"qom-type"`
	ID    string `json:"id"`
	Size  int64  `json:"size"` // bytes
	Share bool   `json:"share"`
}

// dimmArgs are the arguments of device_add for a pc-dimm.
type dimmArgs struct {
	Driver  string `json:"driver"`
	ID      string `json:"id"`
	Backend string `json:"memdev"`
}

// cpuSlot is an element of query-hotpluggable-cpus (QEMU: qapi/machine.json).
type cpuSlot struct {
	Type  string                     `json:"type"`
	Props map[string]json.RawMessage `json:"props"`
	Path  string                     `json:"qom-path"`
}

// cpuArgs are the arguments of device_add for a CPU: its driver, and the
// properties of its slot.
type cpuArgs map[string]any
