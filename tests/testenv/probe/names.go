package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// nameServer is docker's, in every container on a network of the user's.
var nameServer = netip.MustParseAddrPort("127.0.0.11:53")

// names asks docker's DNS server for the address of a name in all ways that a
// program has, while it listens on port 53 of all addresses itself. Each time
// the server must be seen at the address that was asked. A network namespace of the
// container's own has nothing of it.
func names(name string) error {
	var listening []int
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		fd, err := listen(kind, netip.MustParseAddrPort("0.0.0.0:53"))
		if err != nil {
			return fmt.Errorf("listen on port 53: %w", err)
		}
		listening = append(listening, fd)
	}
	for _, kind := range []int{unix.SOCK_DGRAM, unix.SOCK_STREAM} {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			if err := askConnected(family, kind, name); err != nil {
				return fmt.Errorf("ask by family %d, kind %d: %w", family, kind, err)
			}
		}
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if err := askUnconnected(family, name); err != nil {
			return fmt.Errorf("ask by family %d, not connected: %w", family, err)
		}
	}
	for _, fd := range listening {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		if err != nil || n != 0 {
			return fmt.Errorf("something has come to port 53: %d, %v", n, err)
		}
	}
	return ownNamespace()
}

func listen(kind int, at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, kind, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, socketAddress(unix.AF_INET, at)); err != nil || kind == unix.SOCK_DGRAM {
		return fd, err
	}
	return fd, unix.Listen(fd, 1)
}

func socketAddress(family int, at netip.AddrPort) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: at.Addr().As16(), Port: int(at.Port())}
	}
	return &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
}

func isServer(got unix.Sockaddr) error {
	var at netip.AddrPort
	switch a := got.(type) {
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		at = netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	if at != nameServer {
		return fmt.Errorf("the server is at %s, expected %s", at, nameServer)
	}
	return nil
}

// timedSocket makes a socket whose calls take a minute at most.
func timedSocket(family, kind int) (int, error) {
	fd, err := unix.Socket(family, kind, 0)
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60})
	}
	return fd, err
}

func askConnected(family, kind int, name string) error {
	fd, err := timedSocket(family, kind)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Connect(fd, socketAddress(family, nameServer)); err != nil {
		return err
	}
	peer, err := unix.Getpeername(fd)
	if err := errors.Join(err, isServer(peer)); err != nil {
		return fmt.Errorf("getpeername: %w", err)
	}
	message := question(name)
	if kind == unix.SOCK_STREAM { // a message comes after its length
		message = append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...)
	}
	if _, err := unix.Write(fd, message); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, err := unix.Read(fd, answer) // a server writes an answer in one piece
	if err != nil {
		return err
	}
	answer = answer[:n]
	if kind == unix.SOCK_STREAM && n > 2 {
		answer = answer[2:]
	}
	return answered(answer)
}

func askUnconnected(family int, name string) error {
	fd, err := timedSocket(family, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, question(name), 0, socketAddress(family, nameServer)); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, from, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return err
	}
	return errors.Join(isServer(from), answered(answer[:n]))
}

const questionID = 0x4711

// question asks for a name's IPv4 address (RFC 1035, section 4.1).
func question(name string) []byte {
	b := []byte{questionID >> 8, questionID & 0xff, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0, 0, 1, 0, 1)
}

func answered(b []byte) error {
	if len(b) < 12 || binary.BigEndian.Uint16(b) != questionID || b[3]&15 != 0 || binary.BigEndian.Uint16(b[6:]) == 0 {
		return fmt.Errorf("no answer: %x", b)
	}
	return nil
}

// ownNamespace sends a word to a socket at the server's address in a namespace that
// is made for it.
func ownNamespace() error {
	runtime.LockOSThread() // the thread ends with the program
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("lo up: %w", err)
	}
	fd, err := listen(unix.SOCK_DGRAM, nameServer)
	if err != nil {
		return fmt.Errorf("in a namespace of its own: %w", err)
	}
	if err := unix.Sendto(fd, []byte("word"), 0, socketAddress(unix.AF_INET, nameServer)); err != nil {
		return err
	}
	got := make([]byte, 16)
	n, from, err := unix.Recvfrom(fd, got, unix.MSG_DONTWAIT) // lo delivers before sendto returns
	if err != nil || string(got[:n]) != "word" {
		return fmt.Errorf("in a namespace of its own: %q, %v", got[:max(n, 0)], err)
	}
	return isServer(from)
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	up, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	up.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, up)
}
