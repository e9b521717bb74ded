package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// redirect is a network that notes where it was told to lead queries.
type redirect struct {
	from     netip.AddrPort
	udp, tcp uint16
	err      error
	closed   atomic.Bool
}

func (r *redirect) Configure(context.Context, *api.ConfigureNetworkRequest) error {
	return errors.New("not asked for")
}

func (r *redirect) Redirect(from netip.AddrPort, udp, tcp uint16) (io.Closer, error) {
	r.from, r.udp, r.tcp = from, udp, tcp
	return r, r.err
}

func (r *redirect) Close() error {
	r.closed.Store(true)
	return nil
}

// startResolver runs a resolver and gives the host's end of its stream.
func startResolver(t *testing.T, r *redirect) net.Conn {
	t.Helper()
	host, guest := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- New(Config{Network: r}).resolve(guest) }()
	host.SetDeadline(time.Now().Add(time.Minute))
	var reply api.ForwardReply
	if err := api.ReadLine(host, &reply); err != nil || reply.Errno != 0 {
		t.Fatalf("%+v, %v", reply, err)
	}
	t.Cleanup(func() {
		host.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if !r.closed.Load() {
			t.Error("the redirection has outlived the resolver")
		}
	})
	return host
}

// dialResolver asks by a network.
func dialResolver(t *testing.T, network string, port uint16) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, fmt.Sprintf("127.0.0.11:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// TestResolver asks by both transports, and gets the answers back in another
// order, each to who has asked.
func TestResolver(t *testing.T) {
	var led redirect
	host := startResolver(t, &led)
	if led.from.String() != api.ResolverAddress {
		t.Errorf("queries to %s are led here, expected %s", led.from, api.ResolverAddress)
	}
	a, b := dialResolver(t, "udp4", led.udp), dialResolver(t, "udp4", led.udp)
	c := dialResolver(t, "tcp4", led.tcp)
	var queries []api.Query
	read := func(message string, transport api.Transport) {
		t.Helper()
		q, err := api.ReadQuery(host)
		if err != nil || string(q.Message) != message || q.Transport != transport {
			t.Fatalf("%+v, %v", q, err)
		}
		queries = append(queries, q)
	}
	fmt.Fprint(a, "from a")
	read("from a", api.UDP)
	fmt.Fprint(b, "from b")
	read("from b", api.UDP)
	api.WriteMessage(c, []byte("one"))
	read("one", api.TCP)
	api.WriteMessage(c, []byte("two"))
	read("two", api.TCP)
	for _, i := range []int{3, 1, 0, 2} {
		q := queries[i]
		for _, answer := range []struct {
			id   uint32
			text string
		}{{q.ID + maxQueries, "of nobody"}, {q.ID, "to " + string(q.Message)}, {q.ID, "once more"}} {
			if err := api.WriteQuery(host, api.Query{ID: answer.id, Transport: q.Transport, Message: []byte(answer.text)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		conn net.Conn
		want string
	}{{a, "to from a"}, {b, "to from b"}} {
		got := make([]byte, 512)
		if n, err := tt.conn.Read(got); err != nil || string(got[:n]) != tt.want {
			t.Errorf("%q, %v, expected %q", got[:n], err, tt.want)
		}
	}
	for _, want := range []string{"to two", "to one"} {
		if got, err := api.ReadMessage(c); err != nil || string(got) != want {
			t.Errorf("%q, %v, expected %q", got, err, want)
		}
	}
}

// TestResolverRefused has a guest where queries cannot be led to the agent.
func TestResolverRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		want syscall.Errno
	}{
		{"kernel", Config{Network: &redirect{err: fmt.Errorf("load the program: %w", syscall.EPERM)}}, syscall.EPERM},
		{"no network", Config{}, syscall.EOPNOTSUPP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, guest := net.Pipe()
			defer host.Close()
			done := make(chan error, 1)
			go func() { done <- New(tt.cfg).resolve(guest) }()
			host.SetDeadline(time.Now().Add(time.Minute))
			var reply api.ForwardReply
			if err := api.ReadLine(host, &reply); err != nil || syscall.Errno(reply.Errno) != tt.want {
				t.Errorf("%+v, %v", reply, err)
			}
			if err := <-done; !errors.Is(err, tt.want) {
				t.Error(err)
			}
		})
	}
}
