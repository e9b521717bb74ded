package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
)

// ErrProtocol marks a guest that does what no agent does.
var ErrProtocol = errors.New("guest broke the protocol of the channel")

// The frames of yamux (github.com/hashicorp/yamux/spec.md): a header of 12
// bytes with version, type, flags, stream id and length, big-endian.
const (
	frameHeader = 12

	frameData         = 0
	frameWindowUpdate = 1
	framePing         = 2
	frameGoAway       = 3

	flagSYN = 1
)

// guard checks the frames that come from the guest before yamux sees them.
// yamux answers each ping and each new stream, with a goroutine and memory for
// each, as fast as they come; the agent sends neither, so a guest that does is
// cut off.
type guard struct {
	net.Conn
	check frameCheck // used by Read only

	mu  sync.Mutex
	err error // guarded by mu; sticky
}

func (g *guard) Read(b []byte) (int, error) {
	if err := g.reason(); err != nil {
		return 0, err
	}
	n, err := g.Conn.Read(b)
	if cerr := g.check.feed(b[:n]); cerr != nil {
		g.mu.Lock()
		g.err = cerr
		g.mu.Unlock()
		g.Conn.Close()
		return 0, cerr
	}
	return n, err
}

// reason gives what the guest did wrong, nil if nothing.
func (g *guard) reason() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// frameCheck follows a stream of frames.
type frameCheck struct {
	header [frameHeader]byte
	have   int    // bytes of header that are known
	body   uint32 // bytes of the current frame's body that are still to come
}

// feed takes the next bytes of the stream, in pieces of any size.
func (c *frameCheck) feed(b []byte) error {
	for len(b) > 0 {
		if c.body > 0 {
			skip := min(uint64(c.body), uint64(len(b)))
			c.body -= uint32(skip)
			b = b[skip:]
			continue
		}
		n := copy(c.header[c.have:], b)
		c.have += n
		b = b[n:]
		if c.have < frameHeader {
			return nil
		}
		c.have = 0
		if err := c.frame(); err != nil {
			return err
		}
	}
	return nil
}

// frame checks a complete header.
func (c *frameCheck) frame() error {
	version, kind := c.header[0], c.header[1]
	flags := binary.BigEndian.Uint16(c.header[2:])
	switch {
	case version != 0:
		return fmt.Errorf("%w: frame version %d", ErrProtocol, version)
	case kind == framePing:
		return fmt.Errorf("%w: ping", ErrProtocol)
	case kind > frameGoAway:
		return fmt.Errorf("%w: frame type %d", ErrProtocol, kind)
	case flags&flagSYN != 0:
		return fmt.Errorf("%w: stream opened by the guest", ErrProtocol)
	case kind == frameData:
		c.body = binary.BigEndian.Uint32(c.header[8:])
	}
	return nil
}
