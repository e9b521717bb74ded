package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// secretWait bounds how long a vsock connection may take to prove that it is
// the host's.
const secretWait = time.Minute

// Listener accepts vsock connections of the host.
type Listener interface {
	net.Listener
	// Port is where the host finds it.
	Port() uint32
}

// Carrier settles with the host, after the greeting, over what the session
// goes: a vsock connection, or the port. listen is called where the host would
// like vsock; when it cannot, the host is told so.
func Carrier(port io.ReadWriteCloser, terms *api.VsockTerms, listen func() (Listener, error)) (io.ReadWriteCloser, error) {
	if terms == nil {
		return port, nil
	}
	var offer api.VsockOffer
	var d *door
	if l, err := listen(); err != nil {
		offer.Error = err.Error()
	} else {
		offer.Port = l.Port()
		d = openDoor(l, terms)
		defer d.close()
	}
	if err := api.WriteLine(port, offer); err != nil {
		return nil, fmt.Errorf("offer a vsock port: %w", err)
	}
	var choice api.CarrierChoice
	if err := api.ReadLine(port, &choice); err != nil {
		return nil, fmt.Errorf("wait for the choice of a carrier: %w", err)
	}
	switch {
	case choice.Carrier == api.CarrierSerial:
		return port, nil
	case choice.Carrier == api.CarrierVsock && d != nil:
		return d.take()
	}
	return nil, fmt.Errorf("the host chose the carrier %q, offered was %+v", choice.Carrier, offer)
}

// door lets in one connection that knows the secret.
type door struct {
	listener net.Listener
	terms    *api.VsockTerms
	proven   chan net.Conn
	closed   context.Context
	shut     context.CancelFunc
	callers  sync.WaitGroup

	mu    sync.Mutex
	taken bool // guarded by mu: somebody has shown the secret
}

func openDoor(l net.Listener, terms *api.VsockTerms) *door {
	d := &door{listener: l, terms: terms, proven: make(chan net.Conn, 1)}
	d.closed, d.shut = context.WithCancel(context.Background())
	d.callers.Go(d.accept)
	return d
}

// accept ends when the listener is closed. Any process of the host may call:
// none can keep the right one from coming in.
func (d *door) accept() {
	for {
		conn, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.callers.Go(func() {
			if !d.admit(conn) {
				conn.Close()
			}
		})
	}
}

// admit reads a caller's secret and answers the right one.
func (d *door) admit(conn net.Conn) bool {
	ctx, cancel := context.WithTimeout(d.closed, secretWait)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	var shown api.VsockSecret
	if err := api.ReadLine(conn, &shown); err != nil || !shown.Proves(d.terms.Host) || !d.first() {
		return false
	}
	if err := api.WriteLine(conn, api.VsockSecret{Secret: d.terms.Agent}); err != nil || !stop() {
		return false
	}
	d.proven <- conn
	return true
}

func (d *door) first() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	first := !d.taken
	d.taken = true
	return first
}

// take gives the connection that was let in. The host has seen the answer to
// its secret, so it is there or about to be.
func (d *door) take() (net.Conn, error) {
	select {
	case conn := <-d.proven:
		return conn, nil
	case <-time.After(secretWait):
		return nil, errors.New("the host chose a vsock connection that is not there")
	}
}

// close turns all away that have not been taken.
func (d *door) close() {
	d.listener.Close()
	d.shut()
	d.callers.Wait()
	select {
	case conn := <-d.proven:
		conn.Close()
	default:
	}
}
