package sandbox

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
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

// fakeVM is a machine that only lives and dies.
type fakeVM struct {
	hypervisor.VM // anything else is not called
	once          sync.Once
	done          chan struct{}
	console       string
	plug          func(context.Context) error // nil succeeds
}

func (v *fakeVM) PlugShare(ctx context.Context, _ string, _ *os.File) (hypervisor.Device, error) {
	if v.plug == nil {
		return fakeDevice{}, nil
	}
	return fakeDevice{}, v.plug(ctx)
}
func (v *fakeVM) Kill() error            { v.once.Do(func() { close(v.done) }); return nil }
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

// bench is a sandbox on fakes, with one claim for a container named "c".
type bench struct {
	t     *testing.T
	dir   string
	vm    *fakeVM
	guest *fakeGuest
	first *monitor.Conn
	ended chan struct{} // closed when Serve has returned
	shim  *exec.Cmd
	told  func() // called when the shim hears of the exit, before it ends
}

const quick = 300 * time.Millisecond // of the guest's deadlines

func startBench(t *testing.T, guest func(*fakeVM) *fakeGuest, bootErr error) *bench {
	t.Helper()
	store, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, vm: &fakeVM{done: make(chan struct{}), console: "boo\n"}, ended: make(chan struct{})}
	b.guest = guest(b.vm)
	if b.dir, err = store.MakeSandboxDir("c"); err != nil {
		t.Fatal(err)
	}
	if err := store.SaveSandbox(&state.Sandbox{ID: "c"}); err != nil {
		t.Fatal(err)
	}
	l, err := monitor.Listen(b.dir, monitor.SocketName)
	if err != nil {
		t.Fatal(err)
	}
	conn, file, err := monitor.Pair()
	if err != nil {
		t.Fatal(err)
	}
	b.first = conn
	peer, err := monitor.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	cfg := &monitor.SandboxConfig{ID: "c", Config: *config.Default()}
	rt := &cfg.Config.Runtime
	if b.guest.callLimit != 0 {
		rt.CallTimeout = config.Seconds(b.guest.callLimit.Seconds())
	}
	rt.KillTimeout, rt.FlushTimeout = config.Seconds(quick.Seconds()), config.Seconds(quick.Seconds())
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := newSandbox(cfg, store, logrus.NewEntry(log))
	// A sleeping process plays the shim; the test talks for it.
	b.shim = exec.Command("sleep", "60")
	if err := b.shim.Start(); err != nil {
		t.Fatal(err)
	}
	go b.shim.Wait()
	proc, err := state.FindProcess(b.shim.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s.net = noNet{}
	s.setOOMScore = func(string, int) (int, error) { return 0, nil } // pid 1 is not ours
	s.shimOf = func(*monitor.Conn) (state.Process, error) { return proc, nil }
	boot := func(_ context.Context, _ *monitor.SandboxConfig, started func(hypervisor.VM) error) (*Machine, error) {
		if bootErr != nil {
			return nil, bootErr
		}
		return &Machine{VM: b.vm, Guest: b.guest}, started(b.vm)
	}
	go func() { defer close(b.ended); s.Serve(context.Background(), boot, l, peer, "c") }()
	t.Cleanup(func() {
		b.first.Close()
		b.shim.Process.Kill()
		within(t, b.ended, "the monitor's end")
	})
	return b
}

func (b *bench) dial() *monitor.Conn {
	b.t.Helper()
	c, err := monitor.Dial(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	return c
}

// call sends one request on a connection of its own.
func (b *bench) call(req monitor.Request) error {
	b.t.Helper()
	req.Container = "c"
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	_, err := b.dial().Call(ctx, &req, nil)
	return err
}

// create plays the shim: it makes the container, and ends when told the exit.
func (b *bench) create() (<-chan monitor.Exit, error) {
	b.t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		b.t.Fatal(err)
	}
	defer null.Close()
	conn := b.dial()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	if _, err := conn.Call(ctx, &monitor.Request{Op: monitor.OpCreate, Container: "c"}, null); err != nil {
		return nil, err
	}
	exits := make(chan monitor.Exit, 1)
	go func() {
		var rep monitor.Reply
		if _, err := conn.Receive(&rep); err == nil && rep.Exit != nil {
			if b.told != nil {
				b.told()
			}
			exits <- *rep.Exit
		}
		b.shim.Process.Kill()
	}()
	return exits, nil
}

// running brings the container to running, claimed.
func (b *bench) running() <-chan monitor.Exit {
	b.t.Helper()
	exits, err := b.create()
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.first.Call(b.t.Context(), &monitor.Request{Op: monitor.OpClaimed, Container: "c"}, nil); err != nil {
		b.t.Fatal(err)
	}
	if err := b.call(monitor.Request{Op: monitor.OpStart}); err != nil {
		b.t.Fatal(err)
	}
	return exits
}

func within(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come in 10 s", what)
	}
}

func exitOf(t *testing.T, exits <-chan monitor.Exit) monitor.Exit {
	t.Helper()
	select {
	case e := <-exits:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no exit in 10 s")
		return monitor.Exit{}
	}
}

func obeying(sigs ...unix.Signal) func(*fakeVM) *fakeGuest {
	return func(vm *fakeVM) *fakeGuest { return newGuest(vm, sigs...) }
}

func TestTermObeyed(t *testing.T) {
	b := startBench(t, obeying(unix.SIGTERM, unix.SIGKILL), nil)
	exits := b.running()
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGTERM), Grace: int64(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, exits); e.Code != 128+15 {
		t.Errorf("exit code %d, want 143", e.Code)
	}
	within(t, b.vm.done, "the VM's end")
	within(t, b.ended, "the monitor's end")
	if got := b.guest.signals(); len(got) != 1 {
		t.Errorf("the process got %v, want one TERM", got)
	}
}

func TestTermEscalatesAfterGrace(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	exits := b.running()
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGTERM), Grace: int64(50 * time.Millisecond)}); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, exits); e.Code != 137 || !e.Killed {
		t.Errorf("exit %+v, want 137, killed", e)
	}
}

func TestKillPreemptsTerm(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	exits := b.running()
	term := make(chan error, 1)
	go func() {
		term <- b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGTERM), Grace: -1})
	}()
	for len(b.guest.signals()) == 0 { // until the TERM has arrived
		time.Sleep(time.Millisecond)
	}
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, exits); e.Code != 137 {
		t.Errorf("exit code %d, want 137", e.Code)
	}
	if err := <-term; err != nil {
		t.Errorf("the TERM that was overtaken: %v", err)
	}
}

func TestTermOnCreatedStopsAtOnce(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	exits, err := b.create()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGTERM), Grace: -1}); err != nil {
		t.Fatal(err)
	}
	exitOf(t, exits)
}

func TestKillNeedsNoAnswerFromGuest(t *testing.T) {
	b := startBench(t, obeying(), nil)
	exits := b.running()
	close(b.guest.frozen)
	start := time.Now()
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, exits); e.Code != 137 {
		t.Errorf("exit code %d, want 137", e.Code)
	}
	if took := time.Since(start); took < quick {
		t.Errorf("the guest was given %s, want its deadline of %s", took, quick)
	}
	within(t, b.vm.done, "the VM's end")
}

func TestDeathOfVMIsExit137(t *testing.T) {
	b := startBench(t, obeying(), nil)
	exits := b.running()
	b.vm.Kill()
	if e := exitOf(t, exits); e.Code != 137 {
		t.Errorf("exit code %d, want 137", e.Code)
	}
	within(t, b.ended, "the monitor's end")
}

func TestDeathOfShimEndsSandbox(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	b.running()
	b.shim.Process.Kill()
	within(t, b.vm.done, "the VM's end")
	within(t, b.ended, "the monitor's end")
}

func TestLostClaimEndsContainer(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	exits, err := b.create()
	if err != nil {
		t.Fatal(err)
	}
	b.first.Close() // the create was killed
	exitOf(t, exits)
	within(t, b.ended, "the monitor's end")
}

func TestCreateFails(t *testing.T) {
	t.Run("boot", func(t *testing.T) {
		b := startBench(t, obeying(), errors.New("boot the VM: kaput"))
		if _, err := b.create(); err == nil || !strings.Contains(err.Error(), "kaput") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("the guest's answer keeps its errno and stands alone", func(t *testing.T) {
		b := startBench(t, func(vm *fakeVM) *fakeGuest {
			g := newGuest(vm)
			g.createErr = &api.GuestError{Text: `exec: "x": executable file not found in $PATH`, Errno: unix.ENOENT}
			return g
		}, nil)
		_, err := b.create()
		if !errors.Is(err, unix.ENOENT) || strings.Contains(err.Error(), "console") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("anything else comes with phase and console", func(t *testing.T) {
		b := startBench(t, func(vm *fakeVM) *fakeGuest {
			g := newGuest(vm)
			g.createErr = io.ErrUnexpectedEOF
			return g
		}, nil)
		_, err := b.create()
		if err == nil || !strings.Contains(err.Error(), "create the container in the guest") || !strings.Contains(err.Error(), "ends with: boo") {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("nobody claims it", func(t *testing.T) {
		b := startBench(t, obeying(), nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := b.dial().Call(ctx, &monitor.Request{Op: monitor.OpCreate, Container: "other"}, nil); !errors.Is(err, unix.ECANCELED) {
			t.Fatalf("got %v, want ECANCELED", err)
		}
	})
}

func TestConsoleTailIsTame(t *testing.T) {
	got := consoleTail([]byte("a\x1b[2Jb\r\n\n  c\x00\n" + strings.Repeat("x", 5000)))
	if len(got) > 1000 || strings.ContainsAny(got, "\x1b\x00\n\r") {
		t.Fatalf("%d bytes: %q", len(got), got)
	}
	if got := consoleTail([]byte("one\ntwo\r\n")); got != "one | two" {
		t.Fatalf("got %q", got)
	}
}

func TestHostNetworkIsRefused(t *testing.T) {
	a := &attachment{turn: make(chan struct{}, 1)}
	if err := a.sync(t.Context(), nil, os.Getpid(), 1); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Fatalf("got %v", err)
	}
}

// TestManyExecs has so many processes made at once that the guest takes longer for all
// of them than for one it may. None of them is stuck: each has its turn.
func TestManyExecs(t *testing.T) {
	const limit = 2 * time.Second
	b := startBench(t, func(vm *fakeVM) *fakeGuest {
		g := newGuest(vm, unix.SIGKILL)
		g.execTime, g.callLimit = limit/10, limit
		return g
	}, nil)
	exits := b.running()
	var all sync.WaitGroup
	for range 80 { // four at a time: twice the limit
		conn := b.dial()
		all.Go(func() {
			_, err := conn.CallInTurn(t.Context(), &monitor.Request{Op: monitor.OpExec, Container: "c"}, limit, func() {})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	exitOf(t, exits)
}
