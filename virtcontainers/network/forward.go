package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// maxForwards is how many forwarded connections there may be at a time. More
// of them wait in the kernel's queue.
const maxForwards = 256

// DialGuest connects to a TCP port on the guest's localhost. Close of the
// connection ends only the direction to the guest.
type DialGuest func(ctx context.Context, port uint16) (net.Conn, error)

// Forwarder hands connections to localhost in a namespace to the guest.
type Forwarder struct {
	dial      DialGuest
	listeners []*net.TCPListener
	steering  io.Closer
	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	slots     chan struct{}
	running   sync.WaitGroup
}

// Forward starts to forward connections to loopback addresses in the namespace
// to the guest, until Close. ErrUnsupported says that the kernel cannot do it:
// it takes BPF programs of the type sk_lookup (Linux 5.9).
func Forward(netns *os.File, dial DialGuest) (*Forwarder, error) {
	f := &Forwarder{dial: dial, slots: make(chan struct{}, maxForwards)}
	var sockets []*os.File
	err := inNamespace(netns, func(*netlink.Handle) (err error) {
		sockets, err = listenLoopback()
		return err
	})
	defer func() { closeAll(sockets) }()
	if err == nil {
		f.steering, err = steer(netns, sockets)
	}
	for _, s := range sockets {
		if err == nil {
			err = f.listen(s)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("forward ports: %w", errors.Join(err, f.close()))
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	for _, l := range f.listeners {
		f.running.Go(func() { f.accept(l) })
	}
	return f, nil
}

// listenLoopback makes a listening socket for IPv4, and for IPv6 where the
// namespace has it. A socket stays in the namespace where it was made.
func listenLoopback() ([]*os.File, error) {
	var sockets []*os.File
	for _, at := range []struct {
		family  int
		address unix.Sockaddr
	}{
		{unix.AF_INET, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}},
		{unix.AF_INET6, &unix.SockaddrInet6{Addr: [16]byte{15: 1}}},
	} {
		fd, err := unix.Socket(at.family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err == nil {
			sockets = append(sockets, os.NewFile(uintptr(fd), "forward"))
			if err = unix.Bind(fd, at.address); err == nil {
				err = unix.Listen(fd, maxForwards)
			}
		}
		noIPv6 := errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)
		if noIPv6 && at.family == unix.AF_INET6 {
			return sockets[:1], nil // a socket of it is closed by its finalizer
		}
		if err != nil {
			closeAll(sockets)
			return nil, fmt.Errorf("listen on a loopback address: %w", err)
		}
	}
	return sockets, nil
}

func (f *Forwarder) listen(socket *os.File) error {
	l, err := net.FileListener(socket)
	if err != nil {
		return err
	}
	f.listeners = append(f.listeners, l.(*net.TCPListener))
	return nil
}

// accept takes connections until Close. Each has a slot.
func (f *Forwarder) accept(l *net.TCPListener) {
	for {
		select {
		case f.slots <- struct{}{}:
		case <-f.ctx.Done():
			return
		}
		conn, err := l.AcceptTCP()
		if err != nil {
			<-f.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			continue // the connection had gone again (accept(2))
		}
		f.running.Go(func() {
			defer func() { <-f.slots }()
			f.serve(conn)
		})
	}
}

// serve joins a connection with the port of the guest that was meant. Where
// nobody listens there the connection is reset.
func (f *Forwarder) serve(conn *net.TCPConn) {
	defer conn.Close()
	guest, err := f.dial(f.ctx, uint16(conn.LocalAddr().(*net.TCPAddr).Port))
	if err != nil {
		conn.SetLinger(0)
		return
	}
	defer guest.Close()
	stop := context.AfterFunc(f.ctx, func() {
		conn.SetDeadline(time.Unix(1, 0))
		guest.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(guest, conn)
		guest.Close() // this direction only
	})
	both.Go(func() {
		io.Copy(conn, guest)
		conn.CloseWrite()
	})
	both.Wait()
}

// Close ends the forwarding and every connection.
func (f *Forwarder) Close() error {
	f.cancel()
	err := f.close()
	f.running.Wait()
	return err
}

func (f *Forwarder) close() error {
	var errs []error
	for _, l := range f.listeners {
		errs = append(errs, l.Close())
	}
	if f.steering != nil {
		errs = append(errs, f.steering.Close())
	}
	return errors.Join(errs...)
}
