// Package client is the host's side of the guest protocol (agent/api). It runs
// in the monitor, one Client for each virtual machine.
//
// The guest is not trusted: no call outlasts its context, and nothing that the
// guest sends makes the client use more memory than its open streams' windows
// (256 KiB each) and one message (4 MiB).
package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/trace"
)

// ErrMismatch marks a guest image that is not the one this host expects.
var ErrMismatch = errors.New("guest image does not match")

// Options are what Dial expects and does.
type Options struct {
	// ImageID is the build id of the guest image that was started. A guest
	// that names another one is refused.
	ImageID string
	// Hello is the agent's greeting where it has been read before: a clone
	// of a template says none of its own. nil reads it from the connection.
	Hello *api.Hello
	// Vsock is set where the machine has a vsock device, which the session is
	// to go over.
	Vsock *Vsock
}

// Client is a session with the agent of one guest.
type Client struct {
	hello   api.Hello
	mux     *yamux.Session
	conn    *guard   // of the session
	port    net.Conn // of the greeting; often the same
	noVsock error
	rpc     *ttrpc.Client
	agent   api.AgentService
}

// Dial greets the agent over conn and starts a session. It owns conn from then
// on, also when it fails. A guest that does not answer is waited for until ctx
// ends.
func Dial(ctx context.Context, conn net.Conn, opts Options) (*Client, error) {
	c := &Client{port: conn}
	if err := c.dial(ctx, opts); err != nil {
		conn.Close()
		if c.conn != nil {
			c.conn.Close()
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil, fmt.Errorf("connect to the agent: %w", err)
	}
	return c, nil
}

func (c *Client) dial(ctx context.Context, opts Options) error {
	stop := context.AfterFunc(ctx, func() { c.port.SetDeadline(time.Unix(1, 0)) })
	carrier, err := c.agree(ctx, opts)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if carrier != nil {
		c.conn = &guard{Conn: carrier}
	}
	if err != nil {
		return err
	}
	c.mux, err = yamux.Client(c.conn, muxConfig())
	if err != nil {
		return err
	}
	stream, err := c.open(ctx, api.StreamHeader{Kind: api.KindRPC})
	if err != nil {
		err = cmp.Or(c.Err(), err)
		c.mux.Close()
		return err
	}
	c.rpc = ttrpc.NewClient(stream, ttrpc.WithUnaryClientInterceptor(note))
	c.agent = api.NewAgentClient(c.rpc)
	return nil
}

// agree greets the agent and gives what the session goes over.
func (c *Client) agree(ctx context.Context, opts Options) (net.Conn, error) {
	var terms *api.VsockTerms
	if opts.Vsock != nil {
		terms = api.NewVsockTerms()
	}
	if err := c.greet(c.port, opts, terms); err != nil {
		return nil, err
	}
	if terms == nil {
		return c.port, nil
	}
	return c.chooseCarrier(ctx, opts.Vsock, terms)
}

// greet reads Hello and answers with Welcome.
func (c *Client) greet(conn net.Conn, opts Options, terms *api.VsockTerms) error {
	if opts.Hello != nil {
		c.hello = *opts.Hello
	} else if err := api.ReadLine(conn, &c.hello); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if c.hello.Protocol != api.ProtocolVersion {
		return fmt.Errorf("%w: its agent (version %.64q) speaks protocol %d, this host %d",
			ErrMismatch, c.hello.Version, c.hello.Protocol, api.ProtocolVersion)
	}
	if c.hello.ImageID != opts.ImageID {
		return fmt.Errorf("%w: it is %.128q, expected %.128q", ErrMismatch, c.hello.ImageID, opts.ImageID)
	}
	w := api.Welcome{Protocol: api.ProtocolVersion, Entropy: make([]byte, 64), Vsock: terms}
	rand.Read(w.Entropy) // never fails (crypto/rand)
	w.TimeNs = time.Now().UnixNano()
	if err := api.WriteLine(conn, w); err != nil {
		return fmt.Errorf("write welcome: %w", err)
	}
	return nil
}

// note puts each call that does work into the context's trace.
func note(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if req.Method != "WaitProcess" {
		defer trace.Begin(ctx, trace.Call, "agent "+req.Method).End()
	}
	return invoke(ctx, req, resp)
}

func muxConfig() *yamux.Config {
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false
	// Deadlines are the callers' (their ctx): a guest may be frozen for long.
	cfg.ConnectionWriteTimeout = 24 * time.Hour
	cfg.StreamOpenTimeout = 0
	cfg.StreamCloseTimeout = 0
	cfg.LogOutput = io.Discard // the guest could fill it
	return cfg
}

// Hello is what the agent has said of itself.
func (c *Client) Hello() api.Hello { return c.hello }

// Carrier is what the session goes over.
func (c *Client) Carrier() api.Carrier {
	if c.conn.Conn == c.port {
		return api.CarrierSerial
	}
	return api.CarrierVsock
}

// NoVsock says why the session does not go over vsock though Options ask for
// it; nil otherwise.
func (c *Client) NoVsock() error { return c.noVsock }

// Done is closed when the session has ended: the guest is gone or has broken
// the protocol, or Close was called.
func (c *Client) Done() <-chan struct{} { return c.mux.CloseChan() }

// Err tells why the guest was cut off (ErrProtocol). It is nil while it has not
// been, also when the session has ended by other means.
func (c *Client) Err() error { return c.conn.reason() }

// Close ends the session and every call and stream of it.
func (c *Client) Close() error {
	// The connection first: what waits in a write to it ends.
	return errors.Join(ignoreClosed(c.conn.Close()), ignoreClosed(c.port.Close()), c.rpc.Close(), c.mux.Close())
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}
