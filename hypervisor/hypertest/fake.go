// Package hypertest has a fake hypervisor for tests of what is built on
// virtual machines, and the contract that every hypervisor.Driver keeps.
// Only tests use it.
package hypertest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
)

// Driver is a fake hypervisor.Driver. Its machines have no guest, but a real
// process each (cat), so that liveness, SIGKILL and SIGSTOP from outside work
// as they do on a hypervisor: every call but Kill needs its answer.
type Driver struct {
	// Agent plays the guest's end of the channel, which closes when the
	// machine ends. nil is SayHello.
	Agent func(channel net.Conn)
	// StartErr, if not nil, is what Start gives.
	StartErr error
	// PlugErr, if not nil, is asked what a PlugShare of a tag gives.
	PlugErr func(tag string) error
	// Vsock plays what listens on the guest's vsock ports; nil refuses.
	Vsock func(port uint32) (net.Conn, error)

	mu  sync.Mutex // guards what follows
	vms []*VM
}

// Start is hypervisor.Driver.
func (d *Driver) Start(ctx context.Context, cfg hypervisor.Config) (hypervisor.VM, error) {
	if err := errors.Join(ctx.Err(), d.StartErr); err != nil {
		return nil, fmt.Errorf("start the fake: %w", err)
	}
	host, guest, err := connPair()
	if err != nil {
		return nil, err
	}
	p, err := startProcess()
	if err != nil {
		host.Close()
		guest.Close()
		return nil, err
	}
	v := &VM{
		process: p, channel: host, plugErr: d.PlugErr, vsock: refuse,
		slots: cfg.HotplugSlots, shares: make(map[string]*os.File), size: cfg,
	}
	if !cfg.Vsock {
		v.vsock = nil
	} else if d.Vsock != nil {
		v.vsock = d.Vsock
	}
	agent := d.Agent
	if agent == nil {
		agent = SayHello
	}
	d.mu.Lock()
	d.vms = append(d.vms, v)
	d.mu.Unlock()
	go agent(guest) // it may ask for VMs
	go func() {
		<-p.done
		guest.Close()
	}()
	return v, nil
}

// VMs are the machines that were started, in order.
func (d *Driver) VMs() []*VM {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]*VM(nil), d.vms...)
}

// SayHello is an agent that introduces itself and says nothing more.
func SayHello(channel net.Conn) {
	// The host may be gone already, which is its right.
	_ = api.WriteLine(channel, api.Hello{Protocol: api.ProtocolVersion, Version: "fake", ImageID: "fake", UptimeMs: 1})
}

// VM is a fake hypervisor.VM.
type VM struct {
	process *process
	channel net.Conn
	plugErr func(tag string) error
	vsock   func(port uint32) (net.Conn, error) // nil without a device
	slots   int

	mu      sync.Mutex // guards what follows
	shares  map[string]*os.File
	size    hypervisor.Config // CPUs and memory as they are now
	console []byte
	paused  bool
}

// Channel is hypervisor.VM.
func (v *VM) Channel() net.Conn { return v.channel }

// DialVsock is hypervisor.VM.
func (v *VM) DialVsock(ctx context.Context, port uint32) (net.Conn, error) {
	if v.vsock == nil {
		return nil, fmt.Errorf("%w: the fake has no device", hypervisor.ErrVsock)
	}
	if err := v.process.ask(ctx); err != nil {
		return nil, fmt.Errorf("connect to vsock port %d: %w", port, err)
	}
	return v.vsock(port)
}

func refuse(port uint32) (net.Conn, error) {
	return nil, fmt.Errorf("connect to vsock port %d: %w", port, unix.ECONNRESET)
}

// PlugShare is hypervisor.VM. It refuses a tag that is plugged.
func (v *VM) PlugShare(ctx context.Context, tag string, socket *os.File) (hypervisor.Device, error) {
	if v.plugErr != nil {
		if err := v.plugErr(tag); err != nil {
			return nil, fmt.Errorf("plug share %s: %w", tag, err)
		}
	}
	if err := v.process.ask(ctx); err != nil {
		return nil, fmt.Errorf("plug share %s: %w", tag, err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.shares[tag] != nil:
		return nil, fmt.Errorf("plug share %s: the tag is in use", tag)
	case len(v.shares) == v.slots:
		return nil, fmt.Errorf("plug share %s: %w", tag, hypervisor.ErrNoSlot)
	}
	copied, err := duplicate(socket)
	if err != nil {
		return nil, fmt.Errorf("plug share %s: %w", tag, err)
	}
	v.shares[tag] = copied
	return &device{vm: v, tag: tag, socket: copied}, nil
}

// Shares are the tags of the shares that are plugged.
func (v *VM) Shares() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var tags []string
	for tag := range v.shares {
		tags = append(tags, tag)
	}
	return tags
}

// Print adds to the console.
func (v *VM) Print(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.console = append(v.console, s...)
	v.console = v.console[max(0, len(v.console)-64<<10):]
}

// AddMemory is hypervisor.VM.
func (v *VM) AddMemory(ctx context.Context, mib int) error {
	return v.grow(ctx, &v.size.MemoryMiB, mib, v.size.MaxMemoryMiB)
}

// AddCPUs is hypervisor.VM.
func (v *VM) AddCPUs(ctx context.Context, count int) error {
	return v.grow(ctx, &v.size.CPUs, count, v.size.MaxCPUs)
}

func (v *VM) grow(ctx context.Context, size *int, by, most int) error {
	if err := v.process.ask(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if *size+by > most {
		return fmt.Errorf("grow by %d: %w", by, hypervisor.ErrNoSlot)
	}
	*size += by
	return nil
}

// Console is hypervisor.VM.
func (v *VM) Console() []byte {
	v.mu.Lock()
	defer v.mu.Unlock()
	return append([]byte(nil), v.console...)
}

// Progress is hypervisor.VM.
func (v *VM) Progress() uint64 { return uint64(len(v.Console())) }

// Process is hypervisor.VM.
func (v *VM) Process() state.Process { return v.process.proc }

// Pause is hypervisor.VM.
func (v *VM) Pause(ctx context.Context) error { return v.setPaused(ctx, true) }

// Resume is hypervisor.VM.
func (v *VM) Resume(ctx context.Context) error { return v.setPaused(ctx, false) }

// Paused reports whether the machine is.
func (v *VM) Paused() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.paused
}

func (v *VM) setPaused(ctx context.Context, paused bool) error {
	if err := v.process.ask(ctx); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.paused = paused
	return nil
}

// Terminate is hypervisor.VM.
func (v *VM) Terminate() error { return v.process.terminate() }

// Kill is hypervisor.VM.
func (v *VM) Kill() error { return v.process.kill() }

// Done is hypervisor.VM.
func (v *VM) Done() <-chan struct{} { return v.process.done }

// Err is hypervisor.VM.
func (v *VM) Err() error {
	select {
	case <-v.process.done:
		return v.process.err
	default:
		return nil
	}
}

// device is a fake hypervisor.Device.
type device struct {
	vm     *VM
	tag    string
	socket *os.File
}

func (d *device) Unplug(ctx context.Context) error {
	if err := d.vm.process.ask(ctx); err != nil {
		return fmt.Errorf("unplug share %s: %w", d.tag, err)
	}
	d.vm.mu.Lock()
	defer d.vm.mu.Unlock()
	if d.vm.shares[d.tag] == d.socket { // else it was unplugged before
		delete(d.vm.shares, d.tag)
		d.socket.Close()
	}
	return nil
}

func duplicate(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var dupErr error
	if err := raw.Control(func(old uintptr) {
		fd, dupErr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), dupErr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// connPair is a connected pair of stream sockets.
func connPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	fa, fb := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "guest")
	defer fa.Close()
	defer fb.Close()
	if a, err = net.FileConn(fa); err != nil {
		return nil, nil, err
	}
	if b, err = net.FileConn(fb); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}
