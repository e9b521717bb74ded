package sandbox

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/vhostuser"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// stuckDevice is one that the guest does not let go of.
type stuckDevice struct{ err error }

func (d stuckDevice) Unplug(context.Context) error { return d.err }

// A spare that cannot have an idle share is one without it. One in which a device
// stays that is of no use is none.
func TestNoIdleShare(t *testing.T) {
	refused, stays := errors.New("refused"), errors.New("stays")
	for name, c := range map[string]struct {
		offer  *vhostuser.Offer
		plug   error
		device hypervisor.Device
		is     error
		logged string
	}{
		"no file server":      {},
		"refused":             {offer: &vhostuser.Offer{}, plug: refused, device: fakeDevice{}, logged: refused.Error()},
		"not found":           {offer: &vhostuser.Offer{}, device: fakeDevice{}, logged: "before the guest has found it"},
		"not found and stuck": {offer: &vhostuser.Offer{}, device: stuckDevice{stays}, is: stays},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaiting(t, func(*config.Config) {})
			var log strings.Builder
			w.log.SetOutput(&log)
			vm := &fakeVM{done: make(chan struct{}), device: c.device, plug: func(context.Context) error { return c.plug }}
			r := &rehearsing{m: &Machine{VM: vm}, cfg: &w.cfg.Config, log: w.log.WithField("spare", "s"), offer: c.offer}
			idle, err := r.plugIdle(t.Context())
			if idle != nil || !errors.Is(err, c.is) {
				t.Errorf("%v %v, expected %v", idle, err, c.is)
			}
			if !strings.Contains(log.String(), c.logged) || (c.logged == "") != (log.Len() == 0) {
				t.Errorf("the log has %q, expected %q", &log, c.logged)
			}
		})
	}
}

// An idle share is for one container, and for none once its connection has ended.
func TestTakeIdle(t *testing.T) {
	share := func() *idleShare {
		relay, socket, err := vhostuser.New(vhostuser.Offer{}, shareRings)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { socket.Close(); relay.Close() })
		return &idleShare{relay: relay}
	}
	m := &Machine{idle: share()}
	if got := m.takeIdle(); got == nil || got != m.idle {
		t.Errorf("the first one gets %v", got)
	}
	if got := m.takeIdle(); got != nil {
		t.Errorf("the second one gets %v", got)
	}
	ended := &Machine{idle: share()}
	ended.idle.relay.Close()
	if got := ended.takeIdle(); got != nil {
		t.Errorf("of a connection that has ended there is %v", got)
	}
	if got := (&Machine{}).takeIdle(); got != nil {
		t.Errorf("of a machine without there is %v", got)
	}
}
