package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// fakePorts is a guest that answers on some ports with what it was asked.
func fakePorts(_ context.Context, port uint16) (net.Conn, error) {
	if port == 9 {
		return nil, unix.ECONNREFUSED
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		if err != nil {
			return nil, err
		}
		f.Close()
		ends[i] = c.(*net.UnixConn)
	}
	go func() {
		defer ends[1].Close()
		asked, _ := io.ReadAll(ends[1]) // to the end of that direction
		fmt.Fprintf(ends[1], "port %d: %s", port, asked)
	}()
	return halfClose{ends[0]}, nil
}

// halfClose is a stream of the guest channel: Close ends one direction.
type halfClose struct{ *net.UnixConn }

func (h halfClose) Close() error { return h.CloseWrite() }

// ask dials an address in the namespace and gives the answer.
func ask(ns *os.File, address, question string) (answer string, err error) {
	var conn net.Conn
	err = inNamespace(ns, func(*netlink.Handle) (err error) {
		conn, err = net.DialTimeout("tcp", address, 10*time.Second)
		return err
	})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, question); err != nil {
		return "", err
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(conn)
	return string(b), err
}

func TestForward(t *testing.T) {
	ns := newNamespace(t)
	in(t, ns, func(h *netlink.Handle) error {
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		return h.LinkSetUp(lo)
	})
	f, err := Forward(ns, fakePorts)
	if errors.Is(err, ErrUnsupported) {
		t.Skipf("NOT RUN: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"127.0.0.1:80": "port 80: hello", "127.9.9.9:65535": "port 65535: hello", "[::1]:8080": "port 8080: hello",
	} {
		if got, err := ask(ns, address, "hello"); err != nil || got != want {
			t.Errorf("%s answers %q, %v", address, got, err)
		}
	}
	if got, err := ask(ns, "127.0.0.1:9", "hello"); !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("a port on which nobody listens answers %q, %v", got, err)
	}
	// One that never ends does not keep the others from their turn, nor Close.
	in(t, ns, func(*netlink.Handle) error {
		conn, err := net.Dial("tcp", "127.0.0.1:81")
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return err
	})
	if got, err := ask(ns, "127.0.0.1:82", "again"); got != "port 82: again" {
		t.Errorf("%q, %v", got, err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := ask(ns, "127.0.0.1:80", "hello"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after Close: %v", err)
	}
}
