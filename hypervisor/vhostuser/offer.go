package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Features of a device that a relay can pass on (linux/virtio_config.h,
// linux/virtio_ring.h, and the protocol's own).
const (
	notifyOnEmpty    = 1 << 24
	indirectDesc     = 1 << 28
	eventIdx         = 1 << 29
	protocolFeatures = 1 << 30
	version1         = 1 << 32

	knownFeatures = notifyOnEmpty | indirectDesc | eventIdx | protocolFeatures | version1
)

// Features of the protocol that a relay knows: none with which a back end speaks of
// its own accord, or with which there are messages that are not understood.
const (
	protocolMQ       = 1 << 0
	protocolReplyAck = 1 << 3
	protocolMemSlots = 1 << 15

	knownProtocol = protocolMQ | protocolReplyAck | protocolMemSlots
)

// maxSlots is how many regions of memory are held for a back end that is to come.
// A machine has its own two, and one for each time that it grows.
const maxSlots = 32

// Offer is what a back end can do, as far as a Relay knows it.
type Offer struct {
	features, protocol uint64
	queues             uint64 // 0 where the back end does not say
	slots              uint64 // regions of memory; 0 where it takes a table only
}

// Ask asks a back end what it can do. Its socket can be given to a machine
// afterwards, as if nobody had asked.
func Ask(ctx context.Context, socket *os.File) (Offer, error) {
	c, err := connOf(socket)
	if err != nil {
		return Offer{}, fmt.Errorf("ask the back end: %w", err)
	}
	defer c.Close()
	defer boundBy(ctx, c)()
	o, err := ask(c, nil)
	if err != nil {
		return Offer{}, fmt.Errorf("ask the back end: %w", because(ctx, err))
	}
	return o, nil
}

// ask finds out what a back end can do. It is told which features of the protocol
// are used: those that are known, or those that somebody has chosen.
func ask(c *net.UnixConn, chosen *message) (o Offer, err error) {
	if o.features, err = query(c, getFeatures); err != nil {
		return o, err
	}
	if o.features &= knownFeatures; o.features&protocolFeatures == 0 {
		return o, fmt.Errorf("its features are %#x, expected %#x (PROTOCOL_FEATURES) among them", o.features, protocolFeatures)
	}
	if o.protocol, err = query(c, getProtocolFeatures); err != nil {
		return o, err
	}
	o.protocol &= knownProtocol
	if chosen == nil {
		chosen = numbered(setProtocolFeatures, o.protocol)
	} else if lacking := chosen.number() &^ o.protocol; lacking != 0 {
		return o, lacks("protocol features", o.protocol, chosen.number())
	}
	if err := send(c, chosen); err != nil {
		return o, err
	}
	if chosen.number()&protocolMQ != 0 {
		if o.queues, err = query(c, getQueueNum); err != nil {
			return o, err
		}
	}
	if chosen.number()&protocolMemSlots != 0 {
		if o.slots, err = query(c, getMaxMemSlots); err != nil {
			return o, err
		}
		o.slots = min(o.slots, maxSlots)
	}
	return o, nil
}

// has gives an error where a back end with this offer cannot take the place of one
// with the other.
func (o Offer) has(other Offer) error {
	switch {
	case other.features&^o.features != 0:
		return lacks("features", o.features, other.features)
	case other.protocol&^o.protocol != 0:
		return lacks("protocol features", o.protocol, other.protocol)
	case o.queues < other.queues:
		return fmt.Errorf("it has %d queues, expected at least %d", o.queues, other.queues)
	case o.slots < other.slots:
		return fmt.Errorf("it takes %d regions of memory, expected at least %d", o.slots, other.slots)
	}
	return nil
}

// chosen is the part of an offer that counts where somebody has chosen among the
// features of the protocol; nil for nobody.
func (o Offer) chosen(protocol *message) Offer {
	if protocol == nil {
		return o
	}
	if protocol.number()&protocolMQ == 0 {
		o.queues = 0
	}
	if protocol.number()&protocolMemSlots == 0 {
		o.slots = 0
	}
	return o
}

func lacks(what string, has, want uint64) error {
	return fmt.Errorf("its %s are %#x, expected %#x among them", what, has, want)
}

// query asks a back end for a number.
func query(c *net.UnixConn, r request) (uint64, error) {
	if err := send(c, &message{request: r, flags: flagVersion}); err != nil {
		return 0, err
	}
	return await(c, r)
}

// await reads the answer to a request.
func await(c *net.UnixConn, r request) (uint64, error) {
	m, err := receive(c)
	if err != nil {
		return 0, fmt.Errorf("wait for the answer to %s: %w", r, err)
	}
	defer m.close()
	if err := m.checkAnswer(r); err != nil {
		return 0, err
	}
	return m.number(), nil
}

// boundBy has what waits for a connection give up when ctx does, until the function
// that it gives is called.
func boundBy(ctx context.Context, c *net.UnixConn) (release func()) {
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		c.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-cut
		}
		c.SetDeadline(time.Time{})
	}
}

// because says of an error after which ctx has ended why it has.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return errors.Join(cause, err)
	}
	return err
}
