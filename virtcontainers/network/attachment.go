package network

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"google.golang.org/protobuf/proto"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// Errors about what is in the namespace.
var (
	// ErrUnsupported marks what a VM cannot be given.
	ErrUnsupported = errors.New("not possible in a virtual machine")
	// ErrBusy marks an interface whose traffic goes elsewhere: to another VM,
	// or by filters of somebody else.
	ErrBusy = errors.New("interface is in use")
)

// Mode is how packets get from an interface to the VM.
type Mode string

const (
	ModeTC      Mode = "tc"      // a tap beside it, and traffic control
	ModeMacvtap Mode = "macvtap" // a macvtap on it, in the mode passthru
)

// Options are about how a namespace is connected.
type Options struct {
	Mode Mode
	// Queues is how many each interface has, each way; at least one.
	Queues int
	// Vhost has the host's kernel carry the packets where it can, see CheckVhost.
	Vhost bool
}

// Machine is a VM, as far as this package is concerned.
type Machine interface {
	PlugNIC(ctx context.Context, nic hypervisor.NIC) (hypervisor.Device, error)
}

// Guest is its agent.
type Guest interface {
	ConfigureNetwork(ctx context.Context, req *api.ConfigureNetworkRequest) (*api.Empty, error)
}

// Attachment is a network namespace that is connected to a VM. Its methods may
// be called from any goroutine; they wait for each other.
type Attachment struct {
	netns *os.File
	opts  Options
	// busy holds one token; who has it may use what follows.
	busy chan struct{}

	endpoints  []*endpoint
	found      *topology                    // what was seen last
	configured *api.ConfigureNetworkRequest // what the guest has; nil for nothing
}

// endpoint is one interface of the namespace and its tap.
type endpoint struct {
	index     int // of the namespace's interface
	name      string
	deviceMAC net.HardwareAddr // by which the guest knows the device
	tap       *tap
	vhost     bool
	device    hypervisor.Device // nil until it is plugged
}

// Attach makes a tap for each interface that is in the namespace now, and
// connects the two. The VM, which may not run yet, gets them with Sync. A
// namespace without interfaces is fine. On an error nothing is left behind. The
// caller keeps netns.
func Attach(ctx context.Context, netns *os.File, opts Options) (*Attachment, error) {
	if opts.Mode != ModeTC && opts.Mode != ModeMacvtap || opts.Queues < 1 {
		return nil, fmt.Errorf("attach network: mode %q with %d queues: expected %q or %q, and one at least", opts.Mode, opts.Queues, ModeTC, ModeMacvtap)
	}
	own, err := duplicate(netns)
	if err != nil {
		return nil, fmt.Errorf("attach network: %w", err)
	}
	a := &Attachment{netns: own, opts: opts, busy: make(chan struct{}, 1)}
	a.busy <- struct{}{}
	if err := a.refresh(ctx); err != nil {
		return nil, fmt.Errorf("attach network: %w", errors.Join(err, a.Close(context.WithoutCancel(ctx))))
	}
	return a, nil
}

// Sync looks at the namespace again and makes the guest's network what that
// is: new interfaces are plugged, those that have gone are unplugged, and the
// guest is configured where anything has changed. When it returns without an
// error the guest's network is complete. Callers that change the namespace
// between create and start want it before both.
func (a *Attachment) Sync(ctx context.Context, vm Machine, guest Guest) error {
	done, err := a.enter(ctx)
	if err != nil {
		return fmt.Errorf("connect network: %w", err)
	}
	defer done()
	if err := a.refresh(ctx); err != nil {
		return fmt.Errorf("connect network: %w", err)
	}
	if err := a.unplugGone(ctx); err != nil {
		return fmt.Errorf("connect network: %w", err)
	}
	for _, e := range a.endpoints {
		if err := e.plug(ctx, vm); err != nil {
			return fmt.Errorf("connect network: interface %s: %w", e.name, err)
		}
	}
	req := a.request()
	if proto.Equal(req, a.configured) || a.configured == nil && len(req.Interfaces) == 0 {
		return nil
	}
	if err := failpoint.Here(failpoint.MonitorTellNetwork); err != nil {
		return fmt.Errorf("connect network: %w", err)
	}
	if _, err := guest.ConfigureNetwork(ctx, req); err != nil {
		return fmt.Errorf("connect network: %w", err)
	}
	a.configured = req
	return nil
}

// Close removes the taps and the traffic control of the namespace. It is for
// after the VM's end: a QEMU that loses a tap spins. What has gone already is
// fine, and so is a second call.
func (a *Attachment) Close(ctx context.Context) error {
	done, err := a.enter(ctx)
	if err != nil {
		return fmt.Errorf("detach network: %w", err)
	}
	defer done()
	if a.netns == nil {
		return nil
	}
	err = inNamespace(a.netns, func(h *netlink.Handle) error {
		var errs []error
		for _, e := range a.endpoints {
			errs = append(errs, e.disconnect(h))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		return fmt.Errorf("detach network: %w", err) // and can be tried again
	}
	a.endpoints = nil
	a.netns.Close()
	a.netns = nil
	return nil
}

// Endpoint says how an interface of the namespace is connected.
type Endpoint struct {
	Name   string
	Mode   Mode
	Queues int
	// Vhost is set where the host's kernel carries the packets.
	Vhost bool
}

// Endpoints lists what is connected, or about to be.
func (a *Attachment) Endpoints() []Endpoint {
	<-a.busy
	defer func() { a.busy <- struct{}{} }()
	var list []Endpoint
	for _, e := range a.endpoints {
		list = append(list, Endpoint{Name: e.name, Mode: a.opts.Mode, Queues: a.opts.Queues, Vhost: e.vhost})
	}
	return list
}

// Connected reports whether the namespace has interfaces that are, or were to
// be, connected to the VM.
func (a *Attachment) Connected() bool {
	<-a.busy
	defer func() { a.busy <- struct{}{} }()
	return len(a.endpoints) > 0
}

// enter waits for other calls to end.
func (a *Attachment) enter(ctx context.Context) (done func(), err error) {
	select {
	case <-a.busy:
		return func() { a.busy <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("another call is at it: %w", ctx.Err())
	}
}

// refresh does the namespace's part: it connects interfaces that are new.
func (a *Attachment) refresh(ctx context.Context) error {
	if a.netns == nil {
		return os.ErrClosed
	}
	return inNamespace(a.netns, func(h *netlink.Handle) error {
		t, err := readTopology(h)
		if err != nil {
			return err
		}
		for _, i := range t.interfaces {
			if a.endpoint(i.index) != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := failpoint.Here(failpoint.MonitorTap); err != nil {
				return err
			}
			tap, err := a.connect(ctx, h, i)
			if err != nil {
				return fmt.Errorf("interface %s: %w", i.config.Name, err)
			}
			a.endpoints = append(a.endpoints, &endpoint{
				index: i.index, name: i.config.Name, deviceMAC: a.freeMAC(i.config.Mac), tap: tap, vhost: len(tap.vhost) > 0,
			})
		}
		a.found = t
		return nil
	})
}

// connect makes what an interface is to be connected with.
func (a *Attachment) connect(ctx context.Context, h *netlink.Handle, i *netInterface) (t *tap, err error) {
	switch a.opts.Mode {
	case ModeMacvtap:
		t, err = connectMacvtap(ctx, a.netns, h, i, a.opts.Queues)
	default:
		t, err = connectTap(h, i, a.opts.Queues)
	}
	if err != nil || !a.opts.Vhost {
		return t, err
	}
	// The device's owner may have changed its mind, but a host that is out of
	// files or memory is an error.
	if err = failpoint.Here(failpoint.MonitorVhost); err == nil && CheckVhost() == nil {
		t.vhost, err = openVhosts(vhostNet, a.opts.Queues)
	}
	if err != nil {
		return nil, errors.Join(err, t.remove(h), removeRedirect(h, i.index))
	}
	return t, nil
}

func (a *Attachment) endpoint(index int) *endpoint {
	for _, e := range a.endpoints {
		if e.index == index {
			return e
		}
	}
	return nil
}

// freeMAC is the hardware address for a device: that of the interface, or where
// another one has the same (a VLAN's has that of its parent) a random one of
// those that are nobody's.
func (a *Attachment) freeMAC(mac net.HardwareAddr) net.HardwareAddr {
	for slices.ContainsFunc(a.endpoints, func(e *endpoint) bool { return bytes.Equal(e.deviceMAC, mac) }) {
		mac = make(net.HardwareAddr, 6)
		rand.Read(mac)            // never fails (crypto/rand)
		mac[0] = mac[0]&^0x01 | 2 // unicast, locally administered
	}
	return mac
}

// unplugGone takes from the VM the interfaces that the namespace has lost.
func (a *Attachment) unplugGone(ctx context.Context) error {
	for _, e := range slices.Clone(a.endpoints) {
		if a.found.has(e.index) {
			continue
		}
		if e.device != nil {
			if err := e.device.Unplug(ctx); err != nil {
				return fmt.Errorf("interface %s has gone: %w", e.name, err)
			}
		}
		// QEMU's files are closed; with ours the tap goes.
		e.tap.closeFiles()
		if err := inNamespace(a.netns, e.disconnect); err != nil {
			return fmt.Errorf("interface %s has gone: %w", e.name, err)
		}
		a.endpoints = slices.DeleteFunc(a.endpoints, func(other *endpoint) bool { return other == e })
	}
	return nil
}

// plug gives the VM the endpoint's tap, once. Our files are closed then, so that
// the tap ends with the VM.
func (e *endpoint) plug(ctx context.Context, vm Machine) error {
	if e.device != nil {
		return nil
	}
	if err := failpoint.Here(failpoint.MonitorPlugNIC); err != nil {
		return err
	}
	device, err := vm.PlugNIC(ctx, hypervisor.NIC{Taps: e.tap.queues, Vhost: e.tap.vhost, MAC: e.deviceMAC})
	if err != nil {
		return err
	}
	e.device = device
	e.tap.closeFiles()
	return nil
}

func (e *endpoint) disconnect(h *netlink.Handle) error {
	err := errors.Join(failpoint.Here(failpoint.MonitorRemoveTap), e.tap.remove(h))
	if e.tap.home == nil {
		err = errors.Join(err, failpoint.Here(failpoint.MonitorRemoveRedirect), removeRedirect(h, e.index))
	}
	return err
}

// request is what the guest is to be told.
func (a *Attachment) request() *api.ConfigureNetworkRequest {
	req := &api.ConfigureNetworkRequest{Routes: a.found.routes}
	for _, i := range a.found.interfaces {
		if e := a.endpoint(i.index); e != nil {
			config := proto.CloneOf(i.config)
			config.DeviceMac = e.deviceMAC
			req.Interfaces = append(req.Interfaces, config)
		}
	}
	return req
}
