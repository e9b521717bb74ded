package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
)

// sizer keeps the machine large enough for what its containers may use. It
// only ever grows: see hypervisor.VM.
type sizer struct {
	least, most size.Machine
	pod         size.Demand // of all containers together, where that was told

	mu      sync.Mutex             // guards what follows
	demands map[string]size.Demand // by container
	told    map[string]bool        // of which limits of growth users have been told
	notices []string               // for the next one

	// bound has the host's cgroup hold a machine of that many MiB; nil where it
	// has no limit.
	bound func(ctx context.Context, mib int) error
	// room gives an error where the host is too short of memory for the machine to
	// grow by so many MiB.
	room func(mib int) error
	// patience is how long the hypervisor may take to plug something.
	patience time.Duration

	turn chan struct{} // holds one token: who has it may grow the machine
	have size.Machine  // guarded by turn; counted in whole steps
	grew bool          // guarded by turn: memory was plugged before
	idle bool          // guarded by turn: not all that was plugged is in use
}

func newSizer(cfg *monitor.SandboxConfig) *sizer {
	hv := &cfg.Config.Hypervisor
	z := &sizer{
		least:    size.Machine{CPUs: hv.CPUs, MemoryMiB: int(hv.Memory / config.MiB)},
		patience: cfg.Config.Runtime.CallTimeout.Std(),
		pod:      cfg.Demand, demands: make(map[string]size.Demand), told: make(map[string]bool),
		turn: make(chan struct{}, 1),
	}
	cpus, memory := hv.Most()
	z.most = size.Machine{CPUs: cpus, MemoryMiB: int(memory / config.MiB)}
	z.have = z.least
	z.have.MemoryMiB = roundUp(z.have.MemoryMiB, z.step())
	if overhead := hv.MemoryOverhead; overhead != 0 && cfg.Cgroup != nil {
		z.bound = func(ctx context.Context, mib int) error {
			cg, err := cgroup.Load(cfg.Cgroup)
			if err != nil {
				return err
			}
			return cg.LimitMemory(ctx, uint64(mib)<<20+uint64(overhead))
		}
	}
	z.room = func(mib int) error { return roomToGrow(mib, hv.MemoryReserve) }
	z.turn <- struct{}{}
	return z
}

// hold makes the host's limit, where there is one, that of a machine of so many
// MiB. It comes before the memory does.
func (z *sizer) hold(ctx context.Context, mib int) error {
	if z.bound == nil {
		return nil
	}
	if err := z.bound(ctx, mib); err != nil {
		return fmt.Errorf("hypervisor.memory_overhead: %w", err)
	}
	return nil
}

// largeMachine is the size in MiB from which the guest's kernel makes its
// memory of larger blocks (probe_memory_block_size).
const (
	largeMachine = 64 << 10
	largeStep    = 2 << 10
)

// step is what plugged memory must be a multiple of, in MiB.
func (z *sizer) step() int {
	if z.least.MemoryMiB >= largeMachine {
		return largeStep
	}
	return hypervisor.MemoryStep
}

func roundUp(n, step int) int { return (n + step - 1) / step * step }

func (z *sizer) set(container string, d size.Demand) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.demands[container] = d
}

// drop forgets a container: its room is for others.
func (z *sizer) drop(container string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.demands, container)
}

// want is the size that the demands make.
func (z *sizer) want() size.Machine {
	z.mu.Lock()
	defer z.mu.Unlock()
	sum := z.sum()
	if z.least != z.most { // one that is to grow
		z.checkMost(size.For(sum, z.least, boundless))
	}
	return size.For(sum, z.least, z.most)
}

// sum is what all demands together are. z.mu is held.
func (z *sizer) sum() size.Demand {
	var sum size.Demand
	for _, d := range z.demands {
		sum = sum.Plus(d)
	}
	return sum.AtLeast(z.pod)
}

// boundless is the most of a machine that may be of any size.
var boundless = size.Machine{CPUs: math.MaxInt, MemoryMiB: math.MaxInt}

// enough reports whether what the machine has will do for the demands. Its turn is
// held.
func (z *sizer) enough() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	want := size.For(z.sum(), z.least, boundless)
	return want.CPUs <= z.have.CPUs && want.MemoryMiB <= z.have.MemoryMiB
}

// checkMost notes what there is less of than the demands make. z.mu is held.
func (z *sizer) checkMost(want size.Machine) {
	if want.CPUs > z.most.CPUs {
		z.notice("hypervisor.max_cpus", "linux.resources.cpu: the quotas of the virtual machine's containers add up to %d CPUs, and it gets %d at most", want.CPUs, z.most.CPUs)
	}
	if want.MemoryMiB > z.most.MemoryMiB {
		z.notice("hypervisor.max_memory", "linux.resources.memory: for the limits of its containers the virtual machine wants %d MiB, and it gets %d at most", want.MemoryMiB, z.most.MemoryMiB)
	}
}

// notice notes, once for each limit, that the machine is too small for its
// containers. z.mu is held.
func (z *sizer) notice(limit, format string, args ...any) {
	if !z.told[limit] {
		z.told[limit] = true
		z.notices = append(z.notices, fmt.Sprintf(format, args...)+" ("+limit+")")
	}
}

// takeNotices gives what there is to tell the user, once.
func (z *sizer) takeNotices() []string {
	z.mu.Lock()
	defer z.mu.Unlock()
	taken := z.notices
	z.notices = nil
	return taken
}

// fit grows the machine to what the demands make. Before that it calls giveWay as
// long as they do not fit into it: that may take a demand back which nobody waits
// for, and is false where there is none.
func (z *sizer) fit(ctx context.Context, m *Machine, giveWay func() bool) error {
	select {
	case <-z.turn:
		defer func() { z.turn <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("wait for the virtual machine to grow: %w", ctx.Err())
	}
	for !z.enough() && giveWay() {
	}
	want := z.want()
	if want.CPUs <= z.have.CPUs && want.MemoryMiB <= z.have.MemoryMiB && !z.idle {
		return nil
	}
	if err := z.grow(ctx, m, want); err != nil {
		return fmt.Errorf("grow the virtual machine to %d CPUs and %d MiB (hypervisor.sizing): %w", want.CPUs, want.MemoryMiB, err)
	}
	return nil
}

// cpus is how many CPUs the machine has.
func (z *sizer) cpus(ctx context.Context) (int, error) {
	select {
	case <-z.turn:
		defer func() { z.turn <- struct{}{} }()
		return z.have.CPUs, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the virtual machine to grow: %w", ctx.Err())
	}
}

// mapRatio bounds how much memory is plugged at a time, as a multiple of what
// is there: the guest's kernel needs 1/64 of it at once to describe it.
const mapRatio = 8

func (z *sizer) grow(ctx context.Context, m *Machine, want size.Machine) error {
	if err := failpoint.Here(failpoint.MonitorGrow); err != nil {
		return err
	}
	if z.idle { // an earlier call has failed
		if err := z.online(ctx, m); err != nil {
			return err
		}
	}
	if more := want.CPUs - z.have.CPUs; more > 0 {
		if err := z.plug(ctx, func(ctx context.Context) error { return m.VM.AddCPUs(ctx, more) }); err != nil {
			return err
		}
		z.have.CPUs += more
		if err := z.online(ctx, m); err != nil {
			return err
		}
	}
	for z.have.MemoryMiB < want.MemoryMiB {
		more := z.piece(want.MemoryMiB)
		if more == 0 {
			return nil
		}
		if err := z.hold(ctx, z.have.MemoryMiB+more); err != nil {
			return err
		}
		if err := z.room(more); err != nil {
			return errors.Join(err, z.hold(ctx, z.have.MemoryMiB))
		}
		err := z.plug(ctx, func(ctx context.Context) error { return m.VM.AddMemory(ctx, more) })
		if errors.Is(err, hypervisor.ErrNoSlot) {
			z.mu.Lock()
			defer z.mu.Unlock()
			z.notice("a machine can grow a few times only", "linux.resources.memory: for the limits of its containers the virtual machine wants %d MiB, and it stays at %d", want.MemoryMiB, z.have.MemoryMiB)
			return nil
		}
		if err != nil {
			return err
		}
		z.have.MemoryMiB += more
		z.grew = true
		if err := z.online(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// plug has the hypervisor make the machine larger, and waits for that also where
// nobody is left who wants it: it may have been done, and who comes later would
// have it done once more. Only the guest is not waited for in that way.
func (z *sizer) plug(ctx context.Context, add func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), z.patience)
	defer cancel()
	return add(ctx)
}

// piece is how much memory to plug next, in MiB. There are few slots for it:
// all but the first piece are half of the machine at least.
func (z *sizer) piece(want int) int {
	have, step := z.have.MemoryMiB, z.step()
	more := want - have
	if z.grew {
		more = max(more, have/2)
	}
	more = roundUp(min(more, have*mapRatio), step)
	return max(0, min(more, (z.most.MemoryMiB-have)/step*step))
}

// online has the guest use what it has got.
func (z *sizer) online(ctx context.Context, m *Machine) error {
	z.idle = true
	_, err := m.Guest.OnlineResources(ctx, &api.OnlineResourcesRequest{Cpus: uint32(z.have.CPUs), Memory: uint64(z.have.MemoryMiB)})
	if err == nil {
		z.idle = false
	}
	return err
}
