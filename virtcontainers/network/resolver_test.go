package network

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// serveNames listens as docker's DNS server does, where it has no rules of its
// own for the port, and answers with what it is asked.
func serveNames(t *testing.T) error {
	udp, err := net.ListenPacket("udp4", api.ResolverAddress)
	if err != nil {
		return err
	}
	t.Cleanup(func() { udp.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := udp.ReadFrom(b)
			if err != nil {
				return
			}
			if string(b[:n]) != "silence" {
				udp.WriteTo([]byte("udp "+string(b[:n])), from)
			}
		}
	}()
	tcp, err := net.Listen("tcp4", api.ResolverAddress)
	if err != nil {
		return err
	}
	t.Cleanup(func() { tcp.Close() })
	go func() {
		for {
			conn, err := tcp.Accept()
			if err != nil {
				return
			}
			if m, err := api.ReadMessage(conn); err == nil {
				api.WriteMessage(conn, []byte("tcp "+string(m)+strings.Repeat(".", 5000)))
			}
			conn.Close()
		}
	}()
	return nil
}

func TestResolver(t *testing.T) {
	ns := newNamespace(t)
	in(t, ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	if has, err := HasResolver(ns); has || err != nil {
		t.Errorf("a namespace without a DNS server: %t, %v", has, err)
	}
	in(t, ns, func(*netlink.Handle) error { return serveNames(t) })
	if has, err := HasResolver(ns); !has || err != nil {
		t.Errorf("a namespace with a DNS server: %t, %v", has, err)
	}
	guest, host := net.Pipe()
	r, err := Resolve(ns, host)
	if err != nil {
		t.Fatal(err)
	}
	guest.SetDeadline(time.Now().Add(time.Minute))
	// What has no answer stops none of the others.
	for _, tt := range []struct {
		transport      api.Transport
		question, want string
	}{
		{api.UDP, "silence", ""}, {api.UDP, "one", "udp one"}, {api.TCP, "two", "tcp two" + strings.Repeat(".", 5000)},
	} {
		if err := api.WriteQuery(guest, api.Query{ID: 7, Transport: tt.transport, Message: []byte(tt.question)}); err != nil {
			t.Fatal(err)
		}
		if tt.want == "" {
			continue
		}
		q, err := api.ReadQuery(guest)
		if err != nil || q.ID != 7 || q.Transport != tt.transport || string(q.Message) != tt.want {
			t.Errorf("%+v, %v, expected %q", q, err, tt.want)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := api.ReadQuery(guest); !errors.Is(err, net.ErrClosed) && err == nil {
		t.Error("after Close the stream goes on")
	}
}

func TestListensAt(t *testing.T) {
	const table = `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  123: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
  124: 0B00007F:B1D4 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0 0
`
	for ip, want := range map[string]bool{"127.0.0.1": true, "127.0.0.11": true, "127.0.0.53": false, "11.0.0.127": false} {
		if got := listensAt([]byte(table), net.ParseIP(ip).To4()); got != want {
			t.Errorf("%s: %t", ip, got)
		}
	}
}
