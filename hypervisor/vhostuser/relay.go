// Package vhostuser has a device of a virtual machine there before its back end is:
// a Relay is the back end of QEMU's vhost-user device until a real one, a file
// server, is attached to it, and passes their messages on from then on. The monitor
// runs it for the machine of a spare. What the device transports never comes by here:
// that is in the guest's memory, and told by eventfds between guest and back end.
//
// The protocol is that of QEMU's docs/interop/vhost-user.rst.
package vhostuser

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrAttached is what Attach gives when there is a back end.
	ErrAttached = errors.New("the device has a back end already")
	// ErrEnded is what Attach gives when the relay has ended.
	ErrEnded = errors.New("the device's connection has ended")
)

// Relay is between a device and its back end. It ends when one of them does, or says
// what is not of the protocol, and closes both connections then.
type Relay struct {
	offer   Offer
	rings   int
	machine *net.UnixConn
	loops   sync.WaitGroup

	// turn holds one token: who has it takes what the machine says, or attaches.
	turn    chan struct{}
	said    record // guarded by turn
	running chan struct{}
	found   sync.Once // closes it
	// awaited has the request of which the machine awaits the back end's answer.
	awaited chan request

	mu      sync.Mutex // guards what follows; nothing waits with it
	backend *net.UnixConn
	ended   bool
	err     error
	done    chan struct{} // closed with ended
}

// New makes a relay for a device with so many rings, whose back end will be one
// that can do what is offered. socket is the machine's end of the connection: the
// caller closes it when the machine has its own copy. The relay is to be closed.
func New(offer Offer, rings int) (r *Relay, socket *os.File, err error) {
	if rings < 1 || rings > maxRings {
		return nil, nil, fmt.Errorf("a device with %d rings, expected 1 to %d", rings, maxRings)
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the device's connection: %w", err)
	}
	ours := os.NewFile(uintptr(fds[0]), "relay")
	defer ours.Close()
	socket = os.NewFile(uintptr(fds[1]), "device")
	machine, err := connOf(ours)
	if err != nil {
		socket.Close()
		return nil, nil, fmt.Errorf("make the device's connection: %w", err)
	}
	r = &Relay{
		offer: offer, rings: rings, machine: machine,
		turn: make(chan struct{}, 1), running: make(chan struct{}), awaited: make(chan request, 1), done: make(chan struct{}),
	}
	r.turn <- struct{}{}
	r.loops.Go(func() {
		r.end(r.serve())
		<-r.turn
		r.said.close() // the guest's memory is among it
		r.turn <- struct{}{}
	})
	return r, socket, nil
}

// Running is closed when the guest's driver has taken the device.
func (r *Relay) Running() <-chan struct{} { return r.running }

// Done is closed when the relay has ended.
func (r *Relay) Done() <-chan struct{} { return r.done }

// Err says why the relay has ended: nil before that, and where it was closed or the
// machine has.
func (r *Relay) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Close ends the relay, and returns when nothing of it is left. Safe to call more
// than once.
func (r *Relay) Close() {
	r.end(nil)
	r.loops.Wait()
}

// end closes both connections. The first reason counts.
func (r *Relay) end(why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return
	}
	r.ended, r.err = true, why
	close(r.done)
	r.machine.Close()
	if r.backend != nil {
		r.backend.Close()
	}
}

// serve takes what the machine says until that ends.
func (r *Relay) serve() error {
	for {
		m, err := receive(r.machine)
		if err == nil {
			if err = m.checkRequest(r.offer); err != nil {
				m.close()
			}
		}
		if err == nil {
			<-r.turn
			err = r.handle(m)
			r.turn <- struct{}{}
		}
		if err != nil {
			return reason("the device", err)
		}
	}
}

// reason gives the error with which a loop ends; nil where it is only that a
// connection is closed.
func reason(whose string, err error) error {
	if err == io.EOF || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("%s: %w", whose, err)
}

// handle records and answers what the machine says, or passes it on. The message is
// closed then, or recorded.
func (r *Relay) handle(m *message) error {
	if b := r.attached(); b != nil {
		defer m.close()
		return r.pass(b, m)
	}
	answer, err := r.said.take(m, r.offer)
	if err != nil {
		return err
	}
	if r.said.running(r.rings) {
		r.found.Do(func() { close(r.running) })
	}
	if answer == nil {
		return nil
	}
	return send(r.machine, answer)
}

// pass tells the back end what the machine says.
func (r *Relay) pass(to *net.UnixConn, m *message) error {
	if m.answered() {
		select {
		case r.awaited <- m.request:
		default:
			return fmt.Errorf("%w: %s before the answer to another one", errMessage, m.request)
		}
	}
	return send(to, m)
}

func (r *Relay) attached() *net.UnixConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.backend
}

// answer passes on what the back end says until it ends: answers, one for each
// request that awaits one.
func (r *Relay) answer(from *net.UnixConn) error {
	for {
		m, err := receive(from)
		if err != nil {
			return reason("the back end", err)
		}
		var to request
		select {
		case to = <-r.awaited:
			err = m.checkAnswer(to)
		default:
			err = fmt.Errorf("%w: %s, which nobody awaits", errMessage, m.request)
		}
		if err != nil {
			m.close()
			return reason("the back end", err)
		}
		switch n := m.number(); to { // it may do more than it is asked to
		case getFeatures:
			m = numbered(to, n&r.offer.features)
		case getProtocolFeatures:
			m = numbered(to, n&r.offer.protocol)
		}
		m.flags |= flagReply
		if err := send(r.machine, m); err != nil {
			return reason("the device", err)
		}
	}
}

// Attach tells the back end at a connected socket what the machine has said, and
// leaves the device to it. The socket stays the caller's. After an error another back
// end may be tried, unless it is ErrAttached or ErrEnded.
func (r *Relay) Attach(ctx context.Context, socket *os.File) error {
	select {
	case <-r.turn:
		defer func() { r.turn <- struct{}{} }()
	case <-r.done:
		return r.whyEnded()
	case <-ctx.Done():
		return fmt.Errorf("attach the back end: the machine is in the middle of a request: %w", context.Cause(ctx))
	}
	select {
	case <-r.done:
		return r.whyEnded()
	default:
	}
	if r.attached() != nil {
		return ErrAttached
	}
	c, err := connOf(socket)
	if err != nil {
		return fmt.Errorf("attach the back end: %w", err)
	}
	ctx, release := r.untilEnd(ctx)
	defer release()
	if err := r.repeat(ctx, c); err != nil {
		c.Close()
		return fmt.Errorf("attach the back end: %w", because(ctx, err))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		c.Close()
		return ErrEnded
	}
	r.said.close()
	r.backend = c
	r.loops.Go(func() { r.end(r.answer(c)) })
	return nil
}

func (r *Relay) whyEnded() error {
	if err := r.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrEnded, err)
	}
	return ErrEnded
}

// untilEnd gives a context that ends with the relay as well, until release.
func (r *Relay) untilEnd(ctx context.Context) (_ context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-r.done:
			cancel(ErrEnded)
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(nil); watch.Wait() }
}

// repeat tells a back end what the machine has said, and sees to it that it agrees.
func (r *Relay) repeat(ctx context.Context, c *net.UnixConn) error {
	defer boundBy(ctx, c)()
	can, err := ask(c, r.said.protocol)
	if err != nil {
		return err
	}
	if err := can.has(r.offer.chosen(r.said.protocol)); err != nil {
		return err
	}
	if r.said.owner != nil {
		if err := send(c, r.said.owner); err != nil {
			return err
		}
	}
	confirms := r.said.protocol != nil && r.said.protocol.number()&protocolReplyAck != 0
	for _, m := range r.said.messages() {
		if err := tell(c, *m, confirms); err != nil {
			return err
		}
	}
	_, err = query(c, getFeatures) // it has come to here
	return err
}

// tell tells a back end something. One that confirms is waited for.
func tell(c *net.UnixConn, m message, confirms bool) error {
	if !confirms {
		return send(c, &m)
	}
	m.flags |= flagNeedReply
	if err := send(c, &m); err != nil {
		return err
	}
	result, err := await(c, m.request)
	if err == nil && result != 0 {
		err = fmt.Errorf("it refuses %s: answer %d, expected 0", m.request, result)
	}
	return err
}
