package sandbox

import (
	"context"
	"errors"
	"io"
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
	"github.com/vc-runtime/vc-runtime/state/statetest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

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
	ends  func() // called when the shim hears that the machine ends

	sandbox *Sandbox
}

const quick = 300 * time.Millisecond // of the guest's deadlines

func startBench(t *testing.T, guest func(*fakeVM) *fakeGuest, bootErr error) *bench {
	t.Helper()
	store := statetest.Store(t)
	b := &bench{t: t, vm: &fakeVM{terminated: make(chan struct{}), done: make(chan struct{}), console: "boo\n"}, ended: make(chan struct{})}
	b.guest = guest(b.vm)
	var err error
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
	b.sandbox = s
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
		defer b.shim.Process.Kill()
		for {
			var rep monitor.Reply
			if _, err := conn.Receive(&rep); err != nil {
				return
			}
			if rep.Ending && b.ends != nil {
				b.ends()
			}
			if rep.Exit != nil {
				if b.told != nil {
					b.told()
				}
				exits <- *rep.Exit
				return
			}
		}
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
