// Package qmp speaks QEMU's machine protocol over a connected unix socket
// (QEMU: docs/interop/qmp-spec.txt). It knows no command's meaning. It runs
// in the monitor, one Client for each QEMU.
package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/trace"
)

// ErrClosed is what calls give after Close.
var ErrClosed = errors.New("QMP connection closed")

// Client is a QMP connection after its handshake. Its methods may be called
// from any goroutine.
type Client struct {
	conn *net.UnixConn
	// writing holds one token; who has it may write. A channel and no mutex,
	// so that the wait for it can be given up.
	writing chan struct{}
	done    chan struct{} // closed when the reader has ended

	mu     sync.Mutex // guards what follows
	lastID uint64
	calls  map[uint64]chan<- message // buffered for the one answer
	subs   map[*Subscription]struct{}
	err    error // why the connection ended
	heard  uint64
}

// New shakes hands with QEMU at the other end of conn, which it takes over.
// It gives up, and closes conn, when ctx does.
func New(ctx context.Context, conn *net.UnixConn) (*Client, error) {
	c := &Client{
		conn:    conn,
		writing: make(chan struct{}, 1),
		done:    make(chan struct{}),
		calls:   make(map[uint64]chan<- message),
		subs:    make(map[*Subscription]struct{}),
	}
	c.writing <- struct{}{}
	r := bufio.NewReader(conn)
	if err := greet(ctx, conn, r); err != nil {
		conn.Close()
		return nil, fmt.Errorf("QMP greeting: %w", err)
	}
	go c.read(r)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// greet reads the line that QEMU begins with.
func greet(ctx context.Context, conn net.Conn, r *bufio.Reader) error {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	line, err := readLine(r)
	if !stop() {
		return ctx.Err() // a deadline may have been set: conn is of no more use
	}
	if err != nil {
		return err
	}
	m, err := decode(line)
	if err != nil {
		return err
	}
	if m.Greeting == nil {
		return fmt.Errorf("got %.80q", line)
	}
	return nil
}

// Execute runs a command and stores its result in reply, unless that is nil.
// args is nil or marshals to a JSON object. A refusal by QEMU is an *Error.
// When ctx ends first the command may still be carried out; its answer is
// dropped.
func (c *Client) Execute(ctx context.Context, command string, args, reply any) error {
	return c.execute(ctx, command, args, reply, nil)
}

// SendFile gives QEMU a copy of file, to be known there by name ("getfd").
func (c *Client) SendFile(ctx context.Context, name string, file *os.File) error {
	type getfd struct {
		Name string `json:"fdname"`
	}
	return c.execute(ctx, "getfd", getfd{name}, nil, file)
}

// AddFile gives QEMU a copy of file, to be opened there as "/dev/fdset/SET"
// ("add-fd").
func (c *Client) AddFile(ctx context.Context, set int, file *os.File) error {
	type addfd struct {
		Set int `json:"fdset-id"`
	}
	return c.execute(ctx, "add-fd", addfd{set}, nil, file)
}

func (c *Client) execute(ctx context.Context, command string, args, reply any, file *os.File) error {
	defer trace.Begin(ctx, trace.Call, "qmp "+command).End()
	answer, id, err := c.register()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.unregister(id)
	line, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, args, id})
	if err != nil {
		return fmt.Errorf("%s: encode: %w", command, err)
	}
	if err := c.write(ctx, append(line, '\n'), file); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-answer:
		return m.result(command, reply)
	case <-ctx.Done():
		return fmt.Errorf("%s: QEMU did not answer: %w", command, ctx.Err())
	case <-c.done:
	}
	select {
	case m := <-answer: // came just before the end
		return m.result(command, reply)
	default:
		return fmt.Errorf("%s: %w", command, c.Err())
	}
}

// result gives what an answer means to the caller of the command.
func (m message) result(command string, reply any) error {
	if m.Error != nil {
		return fmt.Errorf("%s: %w", command, m.Error)
	}
	if reply == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, reply); err != nil {
		return fmt.Errorf("%s: decode answer: %w", command, err)
	}
	return nil
}

func (c *Client) register() (<-chan message, uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return nil, 0, c.err
	}
	c.lastID++
	answer := make(chan message, 1)
	c.calls[c.lastID] = answer
	return answer, c.lastID, nil
}

func (c *Client) unregister(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.calls, id)
}

// write sends one line, with a copy of file if that is not nil. A write that
// ctx cuts short ends the connection, because what QEMU would read next makes
// no sense to it.
func (c *Client) write(ctx context.Context, line []byte, file *os.File) error {
	select {
	case <-c.writing:
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		return fmt.Errorf("QEMU does not read: %w", ctx.Err())
	}
	defer func() { c.writing <- struct{}{} }()
	if err := ctx.Err(); err != nil {
		return err
	}

	c.conn.SetWriteDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetWriteDeadline(time.Unix(1, 0)) })
	n, err := c.send(line, file)
	if !stop() && err != nil && ctx.Err() != nil {
		err = fmt.Errorf("QEMU does not read: %w", ctx.Err())
	}
	if err != nil && n > 0 && n < len(line) {
		c.fail(fmt.Errorf("QMP command cut short: %w", err))
	}
	return err
}

// send writes all of line; the file goes with its first byte.
func (c *Client) send(line []byte, file *os.File) (int, error) {
	if file == nil {
		return c.conn.Write(line)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n int
	var sendErr error
	// Control keeps the fd open, and does not make it blocking as Fd does.
	err = raw.Control(func(fd uintptr) {
		n, _, sendErr = c.conn.WriteMsgUnix(line, unix.UnixRights(int(fd)), nil)
	})
	if err := errors.Join(err, sendErr); err != nil || n == len(line) {
		return n, err
	}
	rest, err := c.conn.Write(line[n:])
	return n + rest, err
}

// read takes what QEMU says until the connection ends.
func (c *Client) read(r *bufio.Reader) {
	defer close(c.done)
	for {
		line, err := readLine(r)
		if err != nil {
			c.fail(fmt.Errorf("QMP connection ended: %w", err))
			return
		}
		m, err := decode(line)
		if err == nil && m.Greeting != nil {
			err = errors.New("second QMP greeting")
		}
		if err != nil {
			c.fail(err)
			return
		}
		c.dispatch(m)
	}
}

// dispatch never blocks: the reader must go on whatever its listeners do.
func (c *Client) dispatch(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard++
	if m.Event != "" {
		for s := range c.subs {
			s.offer(Event{Name: m.Event, Data: m.Data})
		}
		return
	}
	if answer, ok := c.calls[*m.ID]; ok { // else its caller has given up
		delete(c.calls, *m.ID)
		answer <- m
	}
}

// fail records the first reason of the end and closes the connection, which
// ends the reader, which fails the calls.
func (c *Client) fail(err error) {
	c.mu.Lock()
	if c.err == nil {
		c.err = err
	}
	c.mu.Unlock()
	c.conn.Close()
}

// Close ends the connection; calls in flight fail with ErrClosed. QEMU does
// not end with it.
func (c *Client) Close() error {
	c.fail(ErrClosed)
	<-c.done
	return nil
}

// Heard counts what QEMU has said: events and answers.
func (c *Client) Heard() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heard
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it lives.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}
