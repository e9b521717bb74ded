package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
)

// growingVM writes down what is plugged.
type growingVM struct {
	hypervisor.VM // anything else is not called
	steps         []string
	slots         int
	err           error
}

func (v *growingVM) AddMemory(_ context.Context, mib int) error {
	if v.slots == 0 {
		return hypervisor.ErrNoSlot
	}
	v.slots--
	v.steps = append(v.steps, fmt.Sprintf("+%dM", mib))
	return v.err
}

func (v *growingVM) AddCPUs(_ context.Context, n int) error {
	v.steps = append(v.steps, fmt.Sprintf("+%d", n))
	return v.err
}

// growingGuest writes down what it is to put to use.
type growingGuest struct {
	Guest // anything else is not called
	vm    *growingVM
	err   error
}

func (g growingGuest) OnlineResources(_ context.Context, r *api.OnlineResourcesRequest) (*api.Empty, error) {
	g.vm.steps = append(g.vm.steps, fmt.Sprintf("%d/%dM", r.Cpus, r.Memory))
	return nil, g.err
}

func newGrowing(change func(*config.Hypervisor)) (*sizer, *growingVM, *Machine) {
	cfg := &monitor.SandboxConfig{Config: *config.Default()}
	hv := &cfg.Config.Hypervisor
	hv.MaxCPUs, hv.MaxMemory = 4, 64*config.GiB
	if change != nil {
		change(hv)
	}
	vm := &growingVM{slots: 6}
	z := newSizer(cfg)
	z.room = func(int) error { return nil } // whatever this host has
	return z, vm, &Machine{VM: vm, Guest: growingGuest{vm: vm}}
}

const mib = 1 << 20

func TestMachineFits(t *testing.T) {
	z, vm, m := newGrowing(nil)
	for _, step := range []struct {
		id   string
		d    *size.Demand // nil: the container has gone
		want []string
	}{
		{"a", &size.Demand{Memory: 100 * mib, CPU: 1000}, nil},
		{"b", &size.Demand{Memory: 44 * mib}, nil},
		{"c", &size.Demand{Memory: 6 * mib, CPU: 100}, []string{"+1", "2/256M", "+256M", "2/512M"}}, // 256 + 150
		{"c", nil, nil},
		{"d", &size.Demand{Memory: 112 * mib, CPU: 1000}, nil},                                       // fits into what was c's
		{"e", &size.Demand{Memory: 1 * mib}, []string{"+256M", "2/768M"}},                            // 513: half of what there is
		{"a", &size.Demand{Memory: 10 * mib}, nil},                                                   // an update down
		{"a", &size.Demand{CPU: 2500}, []string{"+2", "4/768M"}},                                     // and up
		{"f", &size.Demand{CPU: 8000}, nil},                                                          // there are no more CPUs
		{"f", &size.Demand{Memory: 8192 * mib}, []string{"+6144M", "4/6912M", "+3456M", "4/10368M"}}, // no more than 8 times at once
	} {
		vm.steps = nil
		if step.d == nil {
			z.drop(step.id)
		} else {
			z.set(step.id, *step.d)
		}
		if err := z.fit(t.Context(), m, nobody); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(vm.steps, step.want) {
			t.Errorf("%s %+v: %q, want %q", step.id, step.d, vm.steps, step.want)
		}
	}
}

// TestGrowthEnds: whoever makes a machine want more than it may have is told,
// and nobody after that.
func TestGrowthEnds(t *testing.T) {
	z, _, m := newGrowing(func(hv *config.Hypervisor) { hv.MaxMemory = config.GiB })
	for _, step := range []struct {
		id   string
		d    size.Demand
		want []string
	}{
		{"a", size.Demand{Memory: 500 * mib, CPU: 4000}, nil},
		{"b", size.Demand{CPU: 100}, []string{
			"linux.resources.cpu: the quotas of the virtual machine's containers add up to 5 CPUs, and it gets 4 at most (hypervisor.max_cpus)"}},
		{"c", size.Demand{Memory: 300 * mib, CPU: 100}, []string{
			"linux.resources.memory: for the limits of its containers the virtual machine wants 1056 MiB, and it gets 1024 at most (hypervisor.max_memory)"}},
		{"d", size.Demand{Memory: 300 * mib, CPU: 9000}, nil},
	} {
		z.set(step.id, step.d)
		if err := z.fit(t.Context(), m, nobody); err != nil {
			t.Fatal(err)
		}
		if got := z.takeNotices(); !slices.Equal(got, step.want) {
			t.Errorf("%s: %q, want %q", step.id, got, step.want)
		}
	}
	var vm *growingVM
	z, vm, m = newGrowing(nil)
	vm.slots = 1
	for _, want := range [][]string{nil, {
		"linux.resources.memory: for the limits of its containers the virtual machine wants 656 MiB, and it stays at 512 (a machine can grow a few times only)"}, nil} {
		z.set(fmt.Sprint(len(z.demands)), size.Demand{Memory: 200 * mib})
		if err := z.fit(t.Context(), m, nobody); err != nil {
			t.Fatal(err)
		}
		if got := z.takeNotices(); !slices.Equal(got, want) {
			t.Errorf("without slots: %q, want %q", got, want)
		}
	}
	z, _, m = newGrowing(func(hv *config.Hypervisor) { hv.Sizing = config.SizingStatic })
	z.set("a", size.Demand{Memory: 500 * mib, CPU: 4000})
	if err := z.fit(t.Context(), m, nobody); err != nil || z.takeNotices() != nil {
		t.Errorf("a machine that is not to grow: %v", err)
	}
}

func TestMachineThatCannotGrow(t *testing.T) {
	big := size.Demand{Memory: 2048 * mib, CPU: 2000}
	for name, change := range map[string]func(*config.Hypervisor){
		"static":  func(hv *config.Hypervisor) { hv.Sizing = config.SizingStatic },
		"at most": func(hv *config.Hypervisor) { hv.MaxCPUs, hv.MaxMemory = 1, 300*config.MiB },
	} {
		z, vm, m := newGrowing(change)
		z.set("a", big)
		if err := z.fit(t.Context(), m, nobody); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, step := range vm.steps {
			if step[0] == '+' {
				t.Errorf("%s: %q", name, vm.steps)
			}
		}
	}
	z, vm, m := newGrowing(nil)
	vm.slots = 0
	z.set("a", big)
	if err := z.fit(t.Context(), m, nobody); err != nil || z.have.CPUs != 2 || z.have.MemoryMiB != 256 {
		t.Errorf("without slots: %+v, %v", z.have, err)
	}
	z, vm, m = newGrowing(nil)
	vm.err = unix.EIO
	z.set("a", big)
	if err := z.fit(t.Context(), m, nobody); !errors.Is(err, unix.EIO) {
		t.Errorf("QEMU refuses: %v", err)
	}
	z, vm, m = newGrowing(nil)
	m.Guest = growingGuest{vm: vm, err: unix.ENOTSUP}
	z.set("a", big)
	if err := z.fit(t.Context(), m, nobody); !errors.Is(err, unix.ENOTSUP) {
		t.Errorf("the guest cannot: %v", err)
	}
	m.Guest = growingGuest{vm: vm} // later it can
	vm.steps = nil
	if err := z.fit(t.Context(), m, nobody); err != nil || !slices.Equal(vm.steps, []string{"2/256M", "+2048M", "2/2304M"}) {
		t.Errorf("again: %q, %v", vm.steps, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	<-z.turn // somebody else is at it
	if err := z.fit(ctx, m, nobody); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gives up: %v", err)
	}
}

// TestNoRoomToGrow has a host without memory, and then with: what cannot be had
// is not plugged, its limit does not stay, and the next one who asks gets it.
func TestNoRoomToGrow(t *testing.T) {
	z, vm, m := newGrowing(nil)
	var bounds []int
	z.bound = func(_ context.Context, mib int) error { bounds = append(bounds, mib); return nil }
	z.room = func(mib int) error { return roomToGrow(mib, 1<<20*config.GiB) }
	z.set("a", size.Demand{Memory: 4096 * mib})
	err := z.fit(t.Context(), m, nobody)
	for _, text := range []string{"to grow by 2048 MiB", "MemAvailable", `hypervisor.memory_reserve = "1048576G"`} {
		if !errors.Is(err, unix.ENOMEM) || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, expected ENOMEM and %q", err, text)
		}
	}
	if len(vm.steps) != 0 || !slices.Equal(bounds, []int{2304, 256}) {
		t.Errorf("plugged: %q; limits: %d", vm.steps, bounds)
	}
	z.room = func(mib int) error { return roomToGrow(mib, 0) } // does not look
	if err := z.fit(t.Context(), m, nobody); err != nil || !slices.Equal(vm.steps, []string{"+2048M", "1/2304M", "+2048M", "1/4352M"}) {
		t.Errorf("with room: %q, %v", vm.steps, err)
	}

	// As the monitor makes it.
	cfg := &monitor.SandboxConfig{Config: *config.Default()}
	cfg.Config.Hypervisor.MaxMemory, cfg.Config.Hypervisor.MemoryReserve = config.GiB, 1<<20*config.GiB
	z, vm.steps = newSizer(cfg), nil
	z.set("a", size.Demand{Memory: 400 * mib})
	if err := z.fit(t.Context(), m, nobody); !errors.Is(err, unix.ENOMEM) || len(vm.steps) != 0 {
		t.Errorf("configured: plugged %q, %v", vm.steps, err)
	}
}

// What a guest counts as its memory is whole blocks.
func TestWholeBlocks(t *testing.T) {
	z, vm, m := newGrowing(func(hv *config.Hypervisor) { hv.Memory = 200 * config.MiB })
	z.set("a", size.Demand{Memory: 100 * mib})
	if err := z.fit(t.Context(), m, nobody); err != nil || !slices.Equal(vm.steps, []string{"+128M", "1/384M"}) {
		t.Errorf("%q, %v", vm.steps, err)
	}
	z, vm, m = newGrowing(func(hv *config.Hypervisor) { hv.Memory, hv.MaxMemory = 64*config.GiB, 80*config.GiB })
	z.set("a", size.Demand{Memory: 65500 * mib})
	if err := z.fit(t.Context(), m, nobody); err != nil || !slices.Equal(vm.steps, []string{"+16384M", "1/81920M"}) {
		t.Errorf("%q, %v", vm.steps, err)
	}
}

// Those that were told for the pod are not counted again.
func TestPodDemand(t *testing.T) {
	z, vm, m := newGrowing(nil)
	z.pod = size.Demand{Memory: 300 * mib, CPU: 2000}
	for _, id := range []string{"a", "b", "c"} {
		z.set(id, size.Demand{Memory: 100 * mib, CPU: 500})
		if err := z.fit(t.Context(), m, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(vm.steps, []string{"+1", "2/256M", "+384M", "2/640M"}) {
		t.Errorf("%q", vm.steps)
	}
}

// busyVM is a machine whose hypervisor takes its time to plug, and says that it has
// begun.
type busyVM struct {
	hypervisor.VM // anything else is not called
	begun, done   chan struct{}
	steps         []string
}

func (v *busyVM) plug(ctx context.Context, what string) error {
	v.steps = append(v.steps, what)
	v.begun <- struct{}{}
	select {
	case <-v.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (v *busyVM) AddMemory(ctx context.Context, mib int) error {
	return v.plug(ctx, fmt.Sprintf("+%dM", mib))
}
func (v *busyVM) AddCPUs(ctx context.Context, n int) error { return v.plug(ctx, fmt.Sprintf("+%d", n)) }

// lateGuest is one whose agent is only asked as long as somebody wants it.
type lateGuest struct {
	Guest
	asked []string
}

func (g *lateGuest) OnlineResources(ctx context.Context, r *api.OnlineResourcesRequest) (*api.Empty, error) {
	if ctx.Err() == nil {
		g.asked = append(g.asked, fmt.Sprintf("%d/%dM", r.Cpus, r.Memory))
	}
	return nil, ctx.Err()
}

// TestGrowthOfOneWhoHasGone: what was being plugged for a create that was cut off
// is there, counted once, and put to use for the next one, which plugs nothing.
func TestGrowthOfOneWhoHasGone(t *testing.T) {
	for _, tt := range []struct {
		name           string
		d              size.Demand
		plugged, asked string
	}{
		{"memory", size.Demand{Memory: 200 * mib}, "+256M", "1/512M"},
		{"CPUs", size.Demand{CPU: 3000}, "+2", "3/256M"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			z, _, _ := newGrowing(nil)
			vm, guest := &busyVM{begun: make(chan struct{}, 1), done: make(chan struct{})}, &lateGuest{}
			m := &Machine{VM: vm, Guest: guest}
			z.set("a", tt.d)
			ctx, cancel := context.WithCancel(t.Context())
			result := make(chan error, 1)
			go func() { result <- z.fit(ctx, m, nobody) }()
			<-vm.begun
			cancel()
			z.drop("a")
			close(vm.done)
			if err := <-result; !errors.Is(err, context.Canceled) {
				t.Errorf("the one who has gone: %v", err)
			}
			z.set("a", tt.d)
			if err := z.fit(t.Context(), m, nobody); err != nil {
				t.Error(err)
			}
			if !slices.Equal(vm.steps, []string{tt.plugged}) || !slices.Equal(guest.asked, []string{tt.asked}) {
				t.Errorf("plugged %q and put to use %q, expected %s and %s", vm.steps, guest.asked, tt.plugged, tt.asked)
			}
		})
	}
}

// nobody is a fit's giveWay where nothing is kept.
func nobody() bool { return false }
