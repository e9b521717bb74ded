package sandbox

import (
	"context"
	"io"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// stuckGuest has a process that does not end, and cannot remove its container
// before it is let go.
type stuckGuest struct {
	Guest
	mute    bool // does not answer a KILL
	letGo   chan struct{}
	removed chan string
}

func (g *stuckGuest) Done() <-chan struct{} { return nil }

func (g *stuckGuest) SignalProcess(ctx context.Context, _ *api.SignalProcessRequest) (*api.Empty, error) {
	if g.mute {
		<-ctx.Done()
	}
	return &api.Empty{}, ctx.Err()
}

func (g *stuckGuest) WaitProcess(ctx context.Context, _ *api.ProcessRequest) (*api.WaitProcessResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (g *stuckGuest) RemoveContainer(ctx context.Context, r *api.ContainerRequest) (*api.Empty, error) {
	select {
	case <-g.letGo:
		g.removed <- r.Container
		return &api.Empty{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// countedDevice tells that it is unplugged.
type countedDevice struct{ unplugged chan struct{} }

func (d countedDevice) Unplug(context.Context) error { close(d.unplugged); return nil }

// podSandbox is a sandbox whose machine runs, with a container that lives in it.
func podSandbox(t *testing.T, guest Guest, vm hypervisor.VM) *Sandbox {
	t.Helper()
	store, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	cfg := &monitor.SandboxConfig{ID: "pod", Config: *config.Default()}
	rt := &cfg.Config.Runtime
	rt.KillTimeout, rt.FlushTimeout, rt.TeardownTimeout = config.Seconds(quick.Seconds()), config.Seconds(quick.Seconds()), config.Seconds(quick.Seconds())
	s := newSandbox(cfg, store, logrus.NewEntry(log))
	s.net = noNet{}
	s.machine = &Machine{VM: vm, Guest: guest}
	close(s.booted)
	s.containers["other"] = &container{}
	return s
}

// member makes a container that is in the guest, with a shim that sleeps.
func member(t *testing.T, s *Sandbox, device hypervisor.Device) *container {
	t.Helper()
	shim := exec.Command("sleep", "60")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	proc, err := state.FindProcess(shim.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	reaped := make(chan struct{})
	go func() { shim.Wait(); close(reaped) }()
	t.Cleanup(func() { shim.Process.Kill(); <-reaped })
	ours, _, err := monitor.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	s.shimOf = func(*monitor.Conn) (state.Process, error) { return proc, nil }
	s.claims["c"] = make(chan struct{})
	c, err := s.newContainer(ours, &monitor.Request{Container: "c"})
	if err != nil {
		t.Fatal(err)
	}
	delete(s.claims, "c")
	c.inGuest = true
	c.plugged(device)
	c.init.watch()
	return c
}

// TestStuckIsPutAside has a process that a KILL does not end, for want of its files. If
// the guest has confirmed the KILL the pod lives on, and the device stays until the
// guest has let go of it; otherwise the machine ends.
func TestStuckIsPutAside(t *testing.T) {
	for name, mute := range map[string]bool{"confirmed": false, "no answer": true} {
		t.Run(name, func(t *testing.T) {
			guest := &stuckGuest{mute: mute, letGo: make(chan struct{}), removed: make(chan string, 9)}
			vm := &fakeVM{terminated: make(chan struct{}), done: make(chan struct{})}
			s := podSandbox(t, guest, vm)
			device := countedDevice{make(chan struct{})}
			c := member(t, s, device)
			c.kill()
			c.supervise(context.Background())
			if isClosed(vm.terminated) != mute {
				t.Errorf("the machine has ended: %t, expected %t", isClosed(vm.terminated), mute)
			}
			if !isClosed(c.released) || !isClosed(c.shimGone) || c.init.exit.Code != exitVMDied {
				t.Errorf("released: %t, shim gone: %t, exit code %d", isClosed(c.released), isClosed(c.shimGone), c.init.exit.Code)
			}
			if isClosed(device.unplugged) {
				t.Error("its device was unplugged, and the guest had it in use")
			}
			s.remove(c)
			close(guest.letGo)
			if again := member(t, s, fakeDevice{}); again.name == c.name || again.tag == c.tag {
				t.Errorf("the next one is %s with the device %s, as the last one", again.name, again.tag)
			}
			if mute {
				return
			}
			within(t, device.unplugged, "the end of the device")
			if name := <-guest.removed; name != c.name {
				t.Errorf("%s was removed, expected %s", name, c.name)
			}
			s.requests.Wait()
			if s.aside.count != 0 {
				t.Errorf("%d are aside still", s.aside.count)
			}
		})
	}
}

// refusingGuest fails to remove a container until it has been asked often enough.
type refusingGuest struct {
	stuckGuest
	mu    sync.Mutex
	fails int
	asked chan struct{}
}

func (g *refusingGuest) RemoveContainer(context.Context, *api.ContainerRequest) (*api.Empty, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fails--
	g.asked <- struct{}{}
	if g.fails >= 0 {
		return nil, unix.EBUSY
	}
	return &api.Empty{}, nil
}

// TestAsideIsTriedAgain asks the guest again when another container has gone, and not
// before.
func TestAsideIsTriedAgain(t *testing.T) {
	guest := &refusingGuest{fails: 3, asked: make(chan struct{}, 99)}
	s := podSandbox(t, guest, &fakeVM{done: make(chan struct{})})
	device := countedDevice{make(chan struct{})}
	c := member(t, s, device)
	c.release(t.Context()) // asks once, and once more aside
	<-guest.asked
	<-guest.asked
	for range 2 {
		select {
		case <-guest.asked:
			t.Fatal("it is asked again and again")
		case <-time.After(10 * time.Millisecond):
		}
		s.aside.changed()
		<-guest.asked
	}
	within(t, device.unplugged, "the end of the device")
	s.requests.Wait()
}

// TestAsideIsBounded: a machine that holds on to too many takes no more.
func TestAsideIsBounded(t *testing.T) {
	s := podSandbox(t, nil, &fakeVM{})
	s.claims["c"] = make(chan struct{})
	s.aside.add(maxAside)
	if err := s.add(&container{id: "c"}); err == nil {
		t.Error("one more was taken")
	}
	s.aside.add(-1)
	if err := s.add(&container{id: "c"}); err != nil {
		t.Error(err)
	}
}
