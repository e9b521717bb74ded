package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// OpenStream connects to one stream of a process ("" is the container's init).
// Each stream can be opened once, any time after CreateContainer or
// ExecProcess.
//
//   - api.KindStdin: write, then Close for the end of input. Once the process
//     reads no more, writes fail with io.ErrClosedPipe.
//   - api.KindStdout, api.KindStderr: read to io.EOF, which comes when the
//     process has ended and everything it wrote was read. Close before that
//     breaks the process's pipe.
//   - api.KindConsole: both; io.EOF comes when the process has ended.
//
// A stream that the agent does not know reads as empty.
func (c *Client) OpenStream(ctx context.Context, kind api.Kind, container, process string) (net.Conn, error) {
	switch kind {
	case api.KindStdin, api.KindStdout, api.KindStderr, api.KindConsole:
	default:
		return nil, fmt.Errorf("open stream: kind %q is none of a process", kind)
	}
	conn, err := c.open(ctx, api.StreamHeader{Kind: kind, Container: container, Process: process})
	if err != nil {
		return nil, fmt.Errorf("open %s of %s: %w", kind, container, err)
	}
	if kind == api.KindStdin {
		return newStdin(conn), nil
	}
	return conn, nil
}

// Forward connects to a TCP port on the guest's localhost. Close ends only the
// direction to the guest; what comes from there is read to its end. Where
// nobody listens the error is an errno, ECONNREFUSED.
func (c *Client) Forward(ctx context.Context, port uint16) (net.Conn, error) {
	conn, err := c.ask(ctx, api.StreamHeader{Kind: api.KindForward, Port: port})
	if err != nil {
		return nil, fmt.Errorf("forward port %d: %w", port, err)
	}
	return conn, nil
}

// Resolver has the agent take what is sent to api.ResolverAddress, and gives the
// stream of what is asked there (api.Query). Close ends that. What the guest's
// kernel refuses is an errno.
func (c *Client) Resolver(ctx context.Context) (net.Conn, error) {
	conn, err := c.ask(ctx, api.StreamHeader{Kind: api.KindResolver})
	if err != nil {
		return nil, fmt.Errorf("pass on queries for names: %w", err)
	}
	return conn, nil
}

// ask opens a stream and waits for the agent's word on it.
func (c *Client) ask(ctx context.Context, h api.StreamHeader) (net.Conn, error) {
	conn, err := c.open(ctx, h)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	var reply api.ForwardReply
	err = api.ReadLine(conn, &reply)
	if !stop() {
		err = errors.Join(err, ctx.Err())
	} else if err == nil && reply.Errno != 0 {
		err = syscall.Errno(reply.Errno)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// open opens a stream and says what it is. The guest may delay both for ever,
// so they happen aside.
func (c *Client) open(ctx context.Context, h api.StreamHeader) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	ready := make(chan result, 1)
	go func() {
		conn, err := c.mux.Open()
		if err == nil {
			if err = api.WriteLine(conn, h); err != nil {
				conn.Close()
			}
		}
		ready <- result{conn, err}
	}()
	select {
	case r := <-ready:
		return r.conn, r.err
	case <-ctx.Done():
		go func() { // ends with the session at the latest
			if r := <-ready; r.err == nil {
				r.conn.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// stdin is the input of a process. The agent closes its side when nobody reads
// the input any more, which yamux alone would not tell a writer.
type stdin struct {
	net.Conn
	unread chan struct{} // closed when the agent has closed its side
}

func newStdin(conn net.Conn) *stdin {
	s := &stdin{Conn: conn, unread: make(chan struct{})}
	go func() {
		io.Copy(io.Discard, conn)
		close(s.unread)
		conn.Close() // ends a Write that waits
	}()
	return s
}

// Read waits until the process reads no more.
func (s *stdin) Read([]byte) (int, error) {
	<-s.unread
	return 0, io.EOF
}

func (s *stdin) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	if err != nil {
		select {
		case <-s.unread:
			err = io.ErrClosedPipe
		default:
		}
	}
	return n, err
}
