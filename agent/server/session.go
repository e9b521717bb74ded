package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path"
	"sync"
	"time"

	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/spans"
)

// headerWait bounds how long a stream may take to say what it is.
const headerWait = time.Minute

// Greet says Hello and waits for the host's Welcome.
func Greet(rw io.ReadWriter, hello api.Hello) (*api.Welcome, error) {
	if err := api.WriteLine(rw, hello); err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	var w api.Welcome
	if err := api.ReadLine(rw, &w); err != nil {
		return nil, fmt.Errorf("wait for the welcome: %w", err)
	}
	if w.Protocol != hello.Protocol {
		return nil, fmt.Errorf("host speaks protocol %d, this agent %d", w.Protocol, hello.Protocol)
	}
	return &w, nil
}

// Serve serves one session, after the greeting, until it ends. The containers
// live on.
func (s *Server) Serve(ctx context.Context, conn io.ReadWriteCloser) error {
	cfg := yamux.DefaultConfig()
	cfg.EnableKeepAlive = false
	// A guest or host that is frozen for a while is no reason to give up.
	cfg.ConnectionWriteTimeout = 24 * time.Hour
	cfg.StreamOpenTimeout = 0
	// A reset would lose output that the host has not read yet.
	cfg.StreamCloseTimeout = 0
	cfg.LogOutput = s.cfg.Log.Writer()
	mux, err := yamux.Server(conn, cfg)
	if err != nil {
		return fmt.Errorf("start session: %w", err)
	}
	defer mux.Close()
	stop := context.AfterFunc(ctx, func() { mux.Close() })
	defer stop()

	rpc, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(s.note))
	if err != nil {
		return fmt.Errorf("start rpc: %w", err)
	}
	defer rpc.Close()
	api.RegisterAgentService(rpc, service{s})
	calls := newHandoff()
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		rpc.Serve(ctx, calls) // ends when calls is closed
	}()
	defer func() { calls.Close(); <-serving }()

	for {
		stream, err := mux.Accept()
		if errors.Is(err, yamux.ErrSessionShutdown) || errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept stream: %w", err)
		}
		go s.serveStream(stream, calls)
	}
}

// note notes each call in a lane of its own, but for those that only wait or
// ask for the notes.
func (s *Server) note(ctx context.Context, decode ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	name := path.Base(info.FullMethod)
	if name == "Spans" || name == "WaitProcess" {
		return method(ctx, decode)
	}
	ctx = spans.With(ctx, s.cfg.Spans)
	defer spans.Begin(ctx, name).End()
	return method(ctx, decode)
}

// serveStream serves one stream by its header. A header that makes no sense
// closes the stream.
func (s *Server) serveStream(stream net.Conn, calls *handoff) {
	var h api.StreamHeader
	stream.SetReadDeadline(time.Now().Add(headerWait))
	if err := api.ReadLine(stream, &h); err != nil {
		s.cfg.Log.Printf("stream header: %v", err)
		stream.Close()
		return
	}
	stream.SetReadDeadline(time.Time{})
	switch h.Kind {
	case api.KindRPC:
		calls.give(stream)
		return
	case api.KindForward:
		if err := forward(stream, h.Port); err != nil {
			s.cfg.Log.Printf("forward port %d: %v", h.Port, err)
		}
		return
	case api.KindResolver:
		if err := s.resolve(stream); err != nil {
			s.cfg.Log.Printf("pass on queries for names: %v", err)
		}
		return
	}
	life := spans.Begin(spans.With(context.Background(), s.cfg.Spans), string(h.Kind))
	if err := s.serveStdio(&noted{Conn: stream, life: life}, h); err != nil {
		s.cfg.Log.Printf("stream %q of %.300q/%.300q: %v", h.Kind, h.Container, h.Process, err)
	}
}

// noted is a stream whose life is noted before the host can see its end.
type noted struct {
	net.Conn
	life spans.Span
	once sync.Once
}

func (n *noted) Close() error {
	n.once.Do(n.life.End)
	return n.Conn.Close()
}

func (s *Server) serveStdio(stream net.Conn, h api.StreamHeader) error {
	defer stream.Close()
	c, err := s.container(h.Container)
	if err != nil {
		return err
	}
	p, err := c.process(h.Process)
	if err != nil {
		return err
	}
	return p.io.serve(h.Kind, stream)
}

// handoff is a listener for connections that come by another way.
type handoff struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandoff() *handoff {
	return &handoff{conns: make(chan net.Conn), done: make(chan struct{})}
}

// give hands a connection to Accept; it is closed when nobody accepts.
func (h *handoff) give(c net.Conn) {
	select {
	case h.conns <- c:
	case <-h.done:
		c.Close()
	}
}

func (h *handoff) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handoff) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

func (h *handoff) Addr() net.Addr { return &net.UnixAddr{Name: "agent", Net: "unix"} }
