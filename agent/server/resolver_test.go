package server

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// freeAddress is one that nobody listens on, by UDP or TCP.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.11:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// startResolver runs a resolver and gives the host's end of its stream.
func startResolver(t *testing.T, address string) net.Conn {
	t.Helper()
	host, guest := net.Pipe()
	done := make(chan error, 1)
	go func() { done <- resolve(guest, address) }()
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
	})
	return host
}

// dialResolver asks by a network.
func dialResolver(t *testing.T, network, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, address)
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
	address := freeAddress(t)
	host := startResolver(t, address)
	a, b := dialResolver(t, "udp4", address), dialResolver(t, "udp4", address)
	c := dialResolver(t, "tcp4", address)
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

// TestResolverTaken has another program listen there.
func TestResolverTaken(t *testing.T) {
	l, err := net.ListenPacket("udp4", "127.0.0.11:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	host, guest := net.Pipe()
	defer host.Close()
	done := make(chan error, 1)
	go func() { done <- resolve(guest, l.LocalAddr().String()) }()
	host.SetDeadline(time.Now().Add(time.Minute))
	var reply api.ForwardReply
	if err := api.ReadLine(host, &reply); err != nil || syscall.Errno(reply.Errno) != syscall.EADDRINUSE {
		t.Errorf("%+v, %v", reply, err)
	}
	if err := <-done; !errors.Is(err, syscall.EADDRINUSE) {
		t.Error(err)
	}
}
