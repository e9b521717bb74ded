package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	"github.com/vc-runtime/vc-runtime/hypervisor/template"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// bootLimit is how long a boot may be without progress: longer where that is
// slow.
func (b *booting) bootLimit() time.Duration {
	limit := b.hv.BootTimeout.Std()
	if b.machine.Accel == hypervisor.AccelTCG {
		limit *= emulated
	}
	return limit
}

// cloneLimit is the same for a clone, before its template is given up: a part of
// what a boot may take, but some times what it takes.
func (b *booting) cloneLimit() time.Duration { return b.bootLimit() / 3 }

// clone gives a machine that goes on where a booted one was saved. The first
// one for a configuration, image and QEMU boots and saves that. An error means
// that the machine has to boot; nothing is left running.
func (b *booting) clone(ctx context.Context) (*Machine, error) {
	store, err := openTemplates(b.hv)
	if err != nil {
		return nil, err
	}
	key, err := template.NewKey(b.machine, b.imageID)
	if err != nil {
		return nil, err
	}
	if b.retry {
		if err := store.Forgive(key); err != nil {
			return nil, err
		}
	}
	span := trace.Begin(ctx, trace.Phase, "find the template")
	maker := b.makeTemplate
	if b.spare {
		maker = nil // others would wait for what comes after them
	}
	entry, made, err := store.Get(ctx, key, maker)
	span.End()
	if err != nil {
		return nil, err
	}
	b.from, b.made = entry, made
	use, _ := entry.Use() // an error says that it has gone already: so will the clone
	m, err := b.startClone(ctx, entry, made || b.check)
	if err != nil {
		use.Close() // nil is fine
		discard := store.Remove
		if made {
			discard = store.Reject
		}
		if ctx.Err() == nil {
			err = errors.Join(err, discard(ctx, entry))
		}
		return nil, err
	}
	m.template, m.templateKey = use, entry.Name()
	if made {
		m.Notices = append(m.Notices, "made a template of the virtual machine: others start faster from now on")
		if hello, err := greetingOf(entry); err == nil && hello.Warning != "" {
			m.Notices = append(m.Notices, "they would start faster still, but for this in the template: "+consoleTail([]byte(hello.Warning)))
		}
	}
	if made || b.check {
		return m, nil
	}
	go func() {
		if b.answers(context.WithoutCancel(ctx), m) != nil {
			store.Remove(context.WithoutCancel(ctx), entry) // else the next one tries that
		}
	}()
	return m, nil
}

// startClone starts a clone. The first one of a template must have answered;
// later ones need not be waited for.
func (b *booting) startClone(ctx context.Context, entry *template.Entry, check bool) (*Machine, error) {
	startCtx, cancel := b.patience(b.cloneLimit(), "the clone").watch(ctx)
	defer cancel()
	m, err := b.start(startCtx, entry)
	if err != nil || !check {
		return m, err
	}
	if err := b.answers(ctx, m); err != nil {
		m.Guest.Close()
		return nil, bootFailure(ctx, m.VM, err)
	}
	return m, nil
}

// answers makes a call to the agent of a clone, and gives an error if it can
// be blamed on the template that there is no answer. The call also makes the
// guest run what it will need soon, while it would be idle.
func (b *booting) answers(ctx context.Context, m *Machine) error {
	hurry := b.patience(b.cloneLimit(), "the clone, for an answer")
	ctx, cancel := hurry.watch(ctx)
	defer cancel()
	if err := failpoint.Here(failpoint.MonitorAnswers); err != nil {
		return err
	}
	_, err := m.Guest.Spans(ctx, &api.SpansRequest{After: math.MaxUint64})
	var answer *api.GuestError
	if err == nil || errors.As(err, &answer) {
		return nil
	}
	select {
	case <-m.VM.Done():
		return m.VM.Err() // nil if it was killed: nobody needs it any more
	default:
	}
	if cause := context.Cause(ctx); errors.Is(cause, hurry.cause) {
		return cause
	}
	return nil // the sandbox is ending
}

// makeTemplate boots a machine and saves it when its agent has said hello.
func (b *booting) makeTemplate(ctx context.Context, t hypervisor.Template) (greeting json.RawMessage, err error) {
	ctx, cancel := b.limit(ctx)
	defer cancel()
	memory, err := os.OpenFile(t.Memory, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer memory.Close()
	devices, err := os.OpenFile(t.State, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer devices.Close()

	cfg := b.machine
	cfg.Name, cfg.MemoryFile = state.Mark(b.root, "template"), t.Memory // of who makes it; its clones have names of their own
	cfg.KernelArgs = append(cfg.KernelArgs[:len(cfg.KernelArgs):len(cfg.KernelArgs)], api.TemplateArg)
	if cfg.Vsock {
		cfg.KernelArgs = append(cfg.KernelArgs, api.VsockArg)
	}
	if err := failpoint.Here(failpoint.MonitorMakeTemplate); err != nil {
		return nil, err
	}
	begun := time.Now()
	vm, err := b.driver.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.vm.Store(&vm)
	var hello api.Hello
	if err = failpoint.Here(failpoint.MonitorGreetTemplate); err == nil {
		err = readHello(ctx, vm, &hello)
	}
	if err != nil {
		return nil, bootFailure(ctx, vm, err)
	}
	err = checkClock(time.Duration(hello.UptimeMs)*time.Millisecond, time.Since(begun))
	if err == nil {
		err = failpoint.Here(failpoint.MonitorSaveTemplate)
	}
	if err == nil {
		err = saveTo(ctx, vm, devices)
	}
	if err := errors.Join(err, endVM(vm)); err != nil {
		return nil, err
	}
	if err := qemu.PunchZeros(memory); err != nil {
		return nil, err
	}
	return json.Marshal(hello)
}

// checkClock refuses a guest whose kernel counts more time since its start than
// has passed on the host: all clones would. A kernel that takes no
// tsc_early_khz may have mistaken its timer on a host that was short of CPU.
func checkClock(uptime, elapsed time.Duration) error {
	if uptime > elapsed {
		return fmt.Errorf("the guest's clock is too fast: %s since its start, which was less than %s ago", uptime, elapsed.Round(time.Millisecond))
	}
	return nil
}

func saveTo(ctx context.Context, vm hypervisor.VM, state *os.File) error {
	saver, ok := vm.(hypervisor.Saver)
	if !ok {
		return errors.New("this hypervisor cannot save a machine")
	}
	return saver.Save(ctx, state)
}

// readHello waits for the agent's greeting, until ctx or the machine ends.
func readHello(ctx context.Context, vm hypervisor.VM, hello *api.Hello) error {
	conn := vm.Channel()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return api.ReadLine(conn, hello)
}

// greetingOf gives what the guest of a template has said; nil for none.
func greetingOf(e *template.Entry) (*api.Hello, error) {
	if e == nil {
		return nil, nil
	}
	var h api.Hello
	if err := json.Unmarshal(e.Greeting, &h); err != nil {
		return nil, fmt.Errorf("greeting of the template: %w", err)
	}
	return &h, nil
}

// booting is a machine on its way.
type booting struct {
	driver  hypervisor.Driver
	hv      *config.Hypervisor
	root    string // of the state, to name machines by
	machine hypervisor.Config
	imageID string
	started func(hypervisor.VM) error
	retry   bool // a template is made also if that has failed a moment ago
	check   bool // a clone must have answered, also one of an old template
	spare   bool // nobody has asked for it: only a clone will do

	from *template.Entry // the template in use; nil for none
	made bool            // and whether it is new

	vm atomic.Pointer[hypervisor.VM] // the one that is being started
}

// limit bounds a boot.
func (b *booting) limit(ctx context.Context) (context.Context, context.CancelFunc) {
	return b.patience(b.bootLimit(), "the guest").watch(ctx)
}

// patience is what the machine gets for its start.
func (b *booting) patience(limit time.Duration, who string) *patience {
	return newPatience(limit, fmt.Errorf("%s has made no progress for %s, without what the host had no CPU for (hypervisor.boot_timeout)", who, limit),
		func() uint64 {
			if vm := b.vm.Load(); vm != nil {
				return (*vm).Progress()
			}
			return 0
		})
}

// start starts the machine, as a clone unless from is nil, and connects to its
// agent.
func (b *booting) start(ctx context.Context, from *template.Entry) (*Machine, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cfg := b.machine
	if from != nil {
		cfg.Template = &from.Template
	}
	hello, err := greetingOf(from)
	if err != nil {
		return nil, err
	}
	if err := failpoint.Here(failpoint.MonitorSpawnVM); err != nil {
		return nil, err
	}
	begun := trace.Now()
	vm, err := b.driver.Start(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.vm.Store(&vm)
	if err := b.started(vm); err != nil {
		return nil, errors.Join(err, endVM(vm))
	}
	// A VM that dies cannot answer any more.
	go func() {
		select {
		case <-vm.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	defer trace.Begin(ctx, trace.Phase, "greet the agent").End()
	if err := failpoint.Here(failpoint.MonitorGreet); err != nil {
		return nil, bootFailure(ctx, vm, err)
	}
	welcomed := time.Now()
	guest, err := client.Dial(ctx, vm.Channel(), client.Options{ImageID: b.imageID, Hello: hello, Vsock: b.vsock(vm)})
	if err == nil {
		if err = failpoint.Here(failpoint.MonitorBooted); err != nil {
			guest.Close()
		}
	}
	if err != nil {
		return nil, bootFailure(ctx, vm, err)
	}
	m := &Machine{VM: vm, Guest: guest, Carrier: guest.Carrier(), started: begun, welcomed: welcomed}
	if err := guest.NoVsock(); err != nil {
		m.Notices = append(m.Notices, serialInstead(err))
	}
	return m, nil
}
