package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// fakeVM is a machine that only lives and dies.
type fakeVM struct {
	hypervisor.VM // anything else is not called
	once          sync.Once
	terminated    chan struct{} // closed when it has been told to end
	// dies is closed when it may; nil for at once. With it Kill only waits: it takes
	// a Terminate.
	dies    chan struct{}
	done    chan struct{}
	console string
	plug    func(context.Context) error // nil succeeds
	device  hypervisor.Device           // that is plugged; nil for one without a fault
}

func (v *fakeVM) PlugShare(ctx context.Context, _ string, _ *os.File) (hypervisor.Device, error) {
	var device hypervisor.Device = fakeDevice{}
	if v.device != nil {
		device = v.device
	}
	if v.plug == nil {
		return device, nil
	}
	return device, v.plug(ctx)
}
func (v *fakeVM) Terminate() error {
	v.once.Do(func() {
		close(v.terminated)
		go func() {
			if v.dies != nil {
				<-v.dies
			}
			close(v.done)
		}()
	})
	return nil
}

func (v *fakeVM) Kill() error {
	if v.dies == nil {
		v.Terminate()
	}
	<-v.done
	return nil
}
func (v *fakeVM) Done() <-chan struct{}  { return v.done }
func (v *fakeVM) Console() []byte        { return []byte(v.console) }
func (v *fakeVM) Progress() uint64       { return 0 }
func (v *fakeVM) Process() state.Process { return state.Process{Pid: 1} }

// noNet is a namespace without interfaces.
type noNet struct{}

func (noNet) sync(context.Context, *Machine, int, int) error { return nil }
func (noNet) leave() error                                   { return nil }
func (noNet) close() error                                   { return nil }

type fakeDevice struct{}

func (fakeDevice) Unplug(context.Context) error { return nil }

// fakeGuest is an agent whose one process obeys the signals that it is told
// to obey.
type fakeGuest struct {
	api.AgentService // anything else is not called
	vm               *fakeVM
	obeys            map[unix.Signal]bool
	frozen           chan struct{} // closed: no call is answered
	mu               sync.Mutex
	got              []unix.Signal
	exit             chan struct{}
	code             uint32
	createErr        error
	create           func(context.Context) error // nil succeeds
	removed          []string
	oomKills         uint64
	oomChanged       chan struct{} // closed when there is one more
	execs            chan struct{} // has room for as many as can be made at a time
	execTime         time.Duration // that one takes
	callLimit        time.Duration // that it may take; 0 for the default
}

func newGuest(vm *fakeVM, obeys ...unix.Signal) *fakeGuest {
	g := &fakeGuest{vm: vm, obeys: map[unix.Signal]bool{}, frozen: make(chan struct{}), exit: make(chan struct{}), oomChanged: make(chan struct{}), execs: make(chan struct{}, 4)}
	for _, s := range obeys {
		g.obeys[s] = true
	}
	return g
}

func (g *fakeGuest) answer(ctx context.Context) error {
	select {
	case <-g.frozen:
		<-ctx.Done()
		return ctx.Err()
	case <-g.vm.done:
		return io.ErrClosedPipe
	default:
		return nil
	}
}

func (g *fakeGuest) CreateContainer(ctx context.Context, _ *api.CreateContainerRequest) (*api.CreateContainerResponse, error) {
	if err := g.answer(ctx); err != nil {
		return nil, err
	}
	if g.create != nil {
		return nil, g.create(ctx)
	}
	return &api.CreateContainerResponse{Pid: 7}, g.createErr
}

func (g *fakeGuest) StartContainer(ctx context.Context, _ *api.ContainerRequest) (*api.Empty, error) {
	return &api.Empty{}, g.answer(ctx)
}

// ExecProcess takes its time, and more where there are many at once.
func (g *fakeGuest) ExecProcess(ctx context.Context, _ *api.ExecProcessRequest) (*api.ExecProcessResponse, error) {
	select {
	case g.execs <- struct{}{}:
		defer func() { <-g.execs }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-time.After(g.execTime):
		return &api.ExecProcessResponse{}, g.answer(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *fakeGuest) SignalProcess(ctx context.Context, r *api.SignalProcessRequest) (*api.Empty, error) {
	if err := g.answer(ctx); err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	sig := unix.Signal(r.Signal)
	g.got = append(g.got, sig)
	if g.obeys[sig] && !isClosed(g.exit) {
		g.code = 128 + r.Signal
		close(g.exit)
	}
	return &api.Empty{}, nil
}

func (g *fakeGuest) WaitProcess(ctx context.Context, _ *api.ProcessRequest) (*api.WaitProcessResponse, error) {
	select {
	case <-g.exit:
		g.mu.Lock()
		defer g.mu.Unlock()
		return &api.WaitProcessResponse{ExitCode: g.code, Oom: g.oomKills > 0}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (g *fakeGuest) WaitOOM(ctx context.Context, r *api.WaitOOMRequest) (*api.WaitOOMResponse, error) {
	for {
		g.mu.Lock()
		kills, changed := g.oomKills, g.oomChanged
		g.mu.Unlock()
		if kills > r.Known {
			return &api.WaitOOMResponse{Kills: kills}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// oomKill kills a process of the container for want of memory.
func (g *fakeGuest) oomKill() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.oomKills++
	close(g.oomChanged)
	g.oomChanged = make(chan struct{})
}

func (g *fakeGuest) RemoveContainer(_ context.Context, r *api.ContainerRequest) (*api.Empty, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.removed = append(g.removed, r.Container)
	return &api.Empty{}, nil
}

func (g *fakeGuest) OpenStream(context.Context, api.Kind, string, string) (net.Conn, error) {
	return nil, errors.New("no streams")
}
func (g *fakeGuest) Forward(context.Context, uint16) (net.Conn, error) {
	return nil, errors.New("no ports")
}
func (g *fakeGuest) Resolver(context.Context) (net.Conn, error) { return nil, errors.New("no names") }
func (g *fakeGuest) Done() <-chan struct{}                      { return g.vm.done }
func (g *fakeGuest) Close() error                               { return nil }

func (g *fakeGuest) signals() []unix.Signal {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]unix.Signal(nil), g.got...)
}

// shimPair gives both ends of a shim's connection: the shim's, and the monitor's.
func shimPair(t *testing.T) (shim, ours *monitor.Conn) {
	t.Helper()
	shim, file, err := monitor.Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { shim.Close() })
	if ours, err = monitor.FileConn(file); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close() })
	return shim, ours
}
