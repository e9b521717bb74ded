package api

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ResolverAddress is where docker's own DNS server listens, in the network
// namespace of a container that is on a network of the user's (libnetwork,
// resolverIPSandbox): the container's resolv.conf has it.
const ResolverAddress = "127.0.0.11:53"

// Query is a DNS message (RFC 1035, section 4.1) on a stream of KindResolver: a
// query from the agent, or the host's answer to it, by the same transport and with
// the same ID. A query may stay without an answer.
type Query struct {
	ID        uint32 // tells one query from another; the agent's choice
	Transport Transport
	Message   []byte
}

// Transport is what a query came over, and is passed on over: servers answer to
// UDP with what fits a datagram.
type Transport byte

const (
	UDP Transport = 'u'
	TCP Transport = 't'
)

// queryHeader is the length of what stands before a message: ID, transport, length.
const queryHeader = 4 + 1 + 2

// MaxMessage bounds a DNS message, in bytes (RFC 1035, section 4.2.2).
const MaxMessage = 1<<16 - 1

// WriteQuery writes a query or its answer, in one piece.
func WriteQuery(w io.Writer, q Query) error {
	if len(q.Message) > MaxMessage {
		return fmt.Errorf("a DNS message of %d bytes: at most %d are expected", len(q.Message), MaxMessage)
	}
	b := make([]byte, queryHeader, queryHeader+len(q.Message))
	binary.BigEndian.PutUint32(b, q.ID)
	b[4] = byte(q.Transport)
	binary.BigEndian.PutUint16(b[5:], uint16(len(q.Message)))
	_, err := w.Write(append(b, q.Message...))
	return err
}

// ReadQuery reads a query or its answer. The error is io.EOF at the stream's end.
func ReadQuery(r io.Reader) (Query, error) {
	var h [queryHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Query{}, err
	}
	q := Query{ID: binary.BigEndian.Uint32(h[:]), Transport: Transport(h[4])}
	if q.Transport != UDP && q.Transport != TCP {
		return Query{}, fmt.Errorf("transport %d of a query: %q or %q is expected", h[4], UDP, TCP)
	}
	q.Message = make([]byte, binary.BigEndian.Uint16(h[5:]))
	if _, err := io.ReadFull(r, q.Message); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Query{}, err
	}
	return q, nil
}

// ReadMessage reads a DNS message from a TCP connection: two bytes of length, and
// that many.
func ReadMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	b := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, b)
	return b, err
}

// WriteMessage writes a DNS message to a TCP connection.
func WriteMessage(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}
