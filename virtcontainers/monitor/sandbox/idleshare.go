package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/vhostuser"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
)

// idleTag is the tag of a spare's idle share. No other share of a machine has it.
const idleTag = "idle"

// shareRings is how many rings the device of a share has: one for requests, and one
// for those that come first.
const shareRings = 2

// idleShare is the device of a share that a spare's guest has found before there is a
// file server. It is for one container, the first one with shared files.
type idleShare struct {
	hypervisor.Device
	relay *vhostuser.Relay
	taken atomic.Bool
}

// errStuck is that a device is in the machine which is of no use.
var errStuck = errors.New("the device stays plugged")

// plugIdle gives the machine an idle share; nil where it can do without. An error is
// that the machine is not as it was before.
func (r *rehearsing) plugIdle(ctx context.Context) (idle *idleShare, err error) {
	if r.offer == nil {
		return nil, nil // who runs images only shares nothing
	}
	err = r.patiently(ctx, "plug the idle share", func(ctx context.Context) error {
		if idle, err = r.makeIdle(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errStuck) {
			r.log.WithError(err).Warn("the spare has no idle share: its container's is plugged when it comes")
			return nil
		}
		return err
	})
	return idle, err
}

// makeIdle plugs the device and waits until the guest has found it. After an error
// the device has gone again, unless ctx has ended or it is errStuck.
func (r *rehearsing) makeIdle(ctx context.Context) (*idleShare, error) {
	relay, socket, err := vhostuser.New(*r.offer, shareRings)
	if err != nil {
		return nil, err
	}
	idle := &idleShare{relay: relay}
	err = failpoint.Here(failpoint.SparePlug)
	if err == nil {
		idle.Device, err = r.m.VM.PlugShare(ctx, idleTag, socket)
	}
	socket.Close() // the VM has its own, whose end is to be seen
	if err != nil {
		relay.Close()
		return nil, errors.Join(err, relay.Err())
	}
	r.steps.Add(1)
	select {
	case <-relay.Running():
		r.steps.Add(1)
		return idle, nil
	case <-relay.Done():
		err = errors.Join(errors.New("the device's connection has ended before the guest has found it"), relay.Err())
	case <-ctx.Done():
		err = fmt.Errorf("the guest does not find the device: %w", ctx.Err())
	}
	if left := idle.Unplug(ctx); left != nil {
		relay.Close()
		return nil, errors.Join(err, errStuck, left)
	}
	return nil, err
}

// takeIdle gives the idle share to who asks first; nil where there is none any more.
func (m *Machine) takeIdle() *idleShare {
	i := m.idle
	if i == nil || isClosed(i.relay.Done()) || i.taken.Swap(true) {
		return nil
	}
	return i
}

// attach has a file server serve it.
func (i *idleShare) attach(ctx context.Context, server *os.File) error {
	defer trace.Begin(ctx, trace.Phase, "attach the share").End()
	if err := failpoint.Here(failpoint.SpareServe); err != nil {
		return err
	}
	return i.relay.Attach(ctx, server)
}

// watch says in the log where the connection ends for what was said on it. It ends
// with the connection.
func (i *idleShare) watch(log *logrus.Entry) {
	<-i.relay.Done()
	if err := i.relay.Err(); err != nil {
		log.WithError(err).Error("the connection of the idle share")
	}
}

// Unplug is hypervisor.Device.
func (i *idleShare) Unplug(ctx context.Context) error {
	if err := i.Device.Unplug(ctx); err != nil {
		return err
	}
	i.relay.Close()
	return nil
}

// close ends the connection of the device, whose machine has ended. nil is fine.
func (i *idleShare) close() {
	if i != nil {
		i.relay.Close()
	}
}
