package server

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// dialWait bounds the connection to a port of the guest itself.
const dialWait = 10 * time.Second

// forward joins a stream with a TCP port on the guest's localhost, which may
// be listened on by IPv4, by IPv6 or by both.
func forward(stream net.Conn, port uint16) error {
	defer stream.Close()
	conn, err := dialLocal(port)
	if werr := api.WriteLine(stream, replyOf(err)); werr != nil || err != nil {
		if conn != nil {
			conn.Close()
		}
		return werr // that nobody listens is no news
	}
	defer conn.Close()
	var both sync.WaitGroup
	both.Go(func() {
		io.Copy(conn, stream)
		conn.CloseWrite()
	})
	both.Go(func() {
		io.Copy(stream, conn)
		stream.Close() // of a stream: this direction only
	})
	both.Wait()
	return nil
}

// replyOf is what the host is told: EIO where the error names no errno.
func replyOf(err error) (reply api.ForwardReply) {
	if err != nil {
		errno := syscall.EIO
		errors.As(err, &errno)
		reply.Errno = uint32(errno)
	}
	return reply
}

func dialLocal(port uint16) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: dialWait}
	var first error
	for _, ip := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		conn, err := d.Dial("tcp", (&net.TCPAddr{IP: ip, Port: int(port)}).String())
		if err == nil {
			return conn.(*net.TCPConn), nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}
