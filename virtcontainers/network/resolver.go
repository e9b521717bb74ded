package network

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

const (
	// maxNameQueries is how many queries are asked at a time. More of them wait.
	maxNameQueries = 64
	// nameLimit bounds one query. Docker's server asks others in turn.
	nameLimit = 20 * time.Second
)

// Resolver takes the guest's queries for names to the DNS server that listens on
// api.ResolverAddress in a namespace: docker's.
type Resolver struct {
	netns   *os.File
	stream  net.Conn
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup
	writing sync.Mutex // one answer is written to the stream at a time
}

// HasResolver reports whether somebody has a UDP socket at the address of
// api.ResolverAddress in the namespace. The port is another one, to which docker's
// rules in the namespace lead.
func HasResolver(netns *os.File) (has bool, err error) {
	err = inNamespace(netns, func(*netlink.Handle) error {
		b, err := os.ReadFile("/proc/thread-self/net/udp")
		has = listensAt(b, resolverIP())
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for a DNS server: %w", err)
	}
	return has, nil
}

func resolverIP() net.IP {
	host, _, _ := net.SplitHostPort(api.ResolverAddress)
	return net.ParseIP(host).To4()
}

// listensAt looks for a local address in the text of /proc/net/udp: the address as
// the machine's word, a colon and the port, in hexadecimal (proc(5)).
func listensAt(table []byte, ip net.IP) bool {
	word := []byte{ip[3], ip[2], ip[1], ip[0]} // there is no big-endian machine among those that are supported
	want := append(bytes.ToUpper([]byte(hex.EncodeToString(word))), ':')
	for line := range bytes.Lines(table) {
		if f := bytes.Fields(line); len(f) > 2 && bytes.HasPrefix(f[1], want) {
			return true
		}
	}
	return false
}

// Resolve answers the queries that come on the stream, until Close.
func Resolve(netns *os.File, stream net.Conn) (*Resolver, error) {
	ns, err := duplicate(netns)
	if err != nil {
		return nil, err
	}
	r := &Resolver{netns: ns, stream: stream}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.running.Go(r.serve)
	return r, nil
}

// Close ends the answers, and the agent's listening.
func (r *Resolver) Close() error {
	r.cancel()
	err := r.stream.Close()
	r.stream.SetReadDeadline(time.Unix(1, 0)) // Close of a stream ends one direction
	r.running.Wait()
	return errors.Join(err, r.netns.Close())
}

func (r *Resolver) serve() {
	slots := make(chan struct{}, maxNameQueries)
	for {
		q, err := api.ReadQuery(r.stream)
		if err != nil {
			return // the guest has gone, or does not keep to the protocol
		}
		select {
		case slots <- struct{}{}:
		case <-r.ctx.Done():
			return
		}
		r.running.Go(func() {
			defer func() { <-slots }()
			answer, err := r.ask(q)
			if err != nil {
				return // no answer: the asker has its own deadline, and asks again
			}
			r.writing.Lock()
			defer r.writing.Unlock()
			api.WriteQuery(r.stream, api.Query{ID: q.ID, Transport: q.Transport, Message: answer})
		})
	}
}

// ask asks the server in the namespace.
func (r *Resolver) ask(q api.Query) ([]byte, error) {
	ctx, cancel := context.WithTimeout(r.ctx, nameLimit)
	defer cancel()
	network := "udp4"
	if q.Transport == api.TCP {
		network = "tcp4"
	}
	var conn net.Conn
	err := inNamespace(r.netns, func(*netlink.Handle) (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, api.ResolverAddress)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if q.Transport == api.TCP {
		if err := api.WriteMessage(conn, q.Message); err != nil {
			return nil, err
		}
		return api.ReadMessage(conn)
	}
	if _, err := conn.Write(q.Message); err != nil {
		return nil, err
	}
	b := make([]byte, api.MaxMessage)
	n, err := conn.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}
