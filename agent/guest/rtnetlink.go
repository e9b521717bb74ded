package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// rtnetlink is a socket to the kernel's network configuration (rtnetlink(7)).
// It speaks the few requests that the guest needs: a library that knows all
// of them would make the start of every guest slower.
type rtnetlink struct {
	fd  int
	seq uint32
}

// answerLimit is how long the kernel may take. It answers before send returns.
const answerLimit = 5 * time.Second

func openRtnetlink() (*rtnetlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open the rtnetlink socket: %w", err)
	}
	limit := unix.NsecToTimeval(answerLimit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("limit the wait for rtnetlink: %w", err)
	}
	return &rtnetlink{fd: fd}, nil
}

func (c *rtnetlink) close() { unix.Close(c.fd) }

// do sends one request and gives the kernel's answer, an errno or nil.
func (c *rtnetlink) do(kind, flags uint16, body []byte) error {
	c.seq++
	msg := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(body))
	binary.NativeEndian.PutUint32(msg[0:], uint32(unix.NLMSG_HDRLEN+len(body)))
	binary.NativeEndian.PutUint16(msg[4:], kind)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	binary.NativeEndian.PutUint32(msg[8:], c.seq)
	if err := unix.Sendto(c.fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to rtnetlink: %w", err)
	}
	var buf [8192]byte
	for {
		n, _, err := unix.Recvfrom(c.fd, buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from rtnetlink: %w", err)
		}
		answers, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return fmt.Errorf("decode rtnetlink's answer: %w", err)
		}
		for _, a := range answers {
			if a.Header.Seq != c.seq || a.Header.Type != unix.NLMSG_ERROR || len(a.Data) < 4 {
				continue
			}
			if errno := int32(binary.NativeEndian.Uint32(a.Data)); errno != 0 {
				return syscall.Errno(-errno)
			}
			return nil
		}
	}
}

// link is a network interface.
type link struct {
	index int32
	name  string
	flags uint32
	mtu   uint32
	mac   net.HardwareAddr
	perm  net.HardwareAddr // that the device was made with
}

// readLinks lists the interfaces.
func readLinks() ([]link, error) {
	raw, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(raw)
	if err != nil {
		return nil, fmt.Errorf("decode the list of interfaces: %w", err)
	}
	var links []link
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return nil, fmt.Errorf("decode an interface: %w", err)
		}
		links = append(links, makeLink(m.Data, attrs))
	}
	return links, nil
}

func makeLink(info []byte, attrs []syscall.NetlinkRouteAttr) link {
	l := link{
		index: int32(binary.NativeEndian.Uint32(info[4:])),
		flags: binary.NativeEndian.Uint32(info[8:]),
	}
	for _, a := range attrs {
		switch v := a.Value; a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = unix.ByteSliceToString(v)
		case unix.IFLA_ADDRESS:
			l.mac = v
		case unix.IFLA_PERM_ADDRESS:
			l.perm = v
		case unix.IFLA_MTU:
			if len(v) == 4 {
				l.mtu = binary.NativeEndian.Uint32(v)
			}
		}
	}
	if l.perm == nil {
		l.perm = l.mac // not every driver tells
	}
	return l
}

// The fixed parts of requests, as in linux/rtnetlink.h, if_link.h, if_addr.h
// and neighbour.h.

func ifinfomsg(index int32, flags, change uint32) []byte {
	b := make([]byte, 4, 64) // family, type: unspecified
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = binary.NativeEndian.AppendUint32(b, flags)
	return binary.NativeEndian.AppendUint32(b, change)
}

func ifaddrmsg(family, prefix, scope uint8, index int32) []byte {
	return binary.NativeEndian.AppendUint32([]byte{family, prefix, 0, scope}, uint32(index))
}

// rtmsg is of a route of the main table.
func rtmsg(family, prefix, tos, protocol, scope, kind uint8, flags uint32) []byte {
	return binary.NativeEndian.AppendUint32(
		[]byte{family, prefix, 0, tos, unix.RT_TABLE_MAIN, protocol, scope, kind}, flags)
}

func ndmsg(family uint8, index int32, state uint16) []byte {
	b := binary.NativeEndian.AppendUint32([]byte{family, 0, 0, 0}, uint32(index))
	b = binary.NativeEndian.AppendUint16(b, state)
	return append(b, 0, 0)
}

// attr appends an attribute to a request or to the value of another one.
func attr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, value...)
	for len(b)%unix.NLMSG_ALIGNTO != 0 { // the fixed parts are aligned
		b = append(b, 0)
	}
	return b
}

func attr32(b []byte, kind uint16, value uint32) []byte {
	return attr(b, kind, binary.NativeEndian.AppendUint32(nil, value))
}
