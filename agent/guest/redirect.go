package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fields of struct bpf_sock_addr (linux/bpf.h): the address that a call names, or
// is about to give. Addresses and the port are in network order.
const (
	userIP4      = 4
	userIP6      = 8
	userPort     = 24
	userProtocol = 36
)

// netnsCookie is the function bpf_get_netns_cookie.
const netnsCookie = 122

// redirection is where a program is attached, and what it does there.
type redirection struct {
	attachTo uint32
	ipv6     bool // of a socket of IPv6, for which the address is ::ffff:IPv4
	back     bool // the address is one that a call gives
}

// redirections are all calls that name the other end, or tell it. sendmsg with an
// IPv4 address is the same one for both kinds of sockets.
var redirections = []redirection{
	{attachTo: unix.BPF_CGROUP_INET4_CONNECT},
	{attachTo: unix.BPF_CGROUP_INET6_CONNECT, ipv6: true},
	{attachTo: unix.BPF_CGROUP_UDP4_SENDMSG},
	{attachTo: unix.BPF_CGROUP_UDP4_RECVMSG, back: true},
	{attachTo: unix.BPF_CGROUP_UDP6_RECVMSG, ipv6: true, back: true},
	{attachTo: unix.BPF_CGROUP_INET4_GETPEERNAME, back: true},
	{attachTo: unix.BPF_CGROUP_INET6_GETPEERNAME, ipv6: true, back: true},
}

// Redirect leads who sends to the IPv4 address and port of from, in this network
// namespace, on to the ports udp and tcp of the same address, until what it gives
// is closed. Senders see from all the while. Programs at the calls themselves
// do it: the port stays free for others to listen on, which they would
// not with a socket there, and no packet filter is needed.
func (n *Network) Redirect(from netip.AddrPort, udp, tcp uint16) (io.Closer, error) {
	if !from.Addr().Is4() {
		return nil, fmt.Errorf("redirect %s: expected an IPv4 address", from)
	}
	cookie, err := ownNetns()
	if err != nil {
		return nil, fmt.Errorf("redirect %s: %w", from, err)
	}
	cgroup, err := os.Open(CgroupRoot)
	if err != nil {
		return nil, fmt.Errorf("redirect %s: %w", from, err)
	}
	defer cgroup.Close()
	var l links
	for _, r := range redirections {
		link, err := r.attach(cgroup, r.program(cookie, from, udp, tcp))
		if err != nil {
			return nil, errors.Join(fmt.Errorf("redirect %s: hook %d: %w", from, r.attachTo, err), l.Close())
		}
		l = append(l, link)
	}
	return l, nil
}

// links are those of programs to their hooks: each ends when it is closed.
type links []int

func (l links) Close() error {
	var errs []error
	for _, fd := range l {
		errs = append(errs, unix.Close(fd))
	}
	return errors.Join(errs...)
}

// ownNetns gives the number of this process's network namespace (socket(7),
// SO_NETNS_COOKIE).
func ownNetns() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, fmt.Errorf("number of the network namespace: %w", err)
	}
	return cookie, nil
}

func (r redirection) attach(cgroup *os.File, code []bpfInstruction) (int, error) {
	program, err := loadProgram("vc_redirect", code, programAttr{kind: unix.BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attachTo: r.attachTo})
	if err != nil {
		return -1, err
	}
	defer unix.Close(program) // the link keeps it
	attr := linkAttr{program: uint32(program), target: uint32(cgroup.Fd()), attachTo: r.attachTo}
	link, err := bpf(unix.BPF_LINK_CREATE, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return -1, fmt.Errorf("attach: %w", err)
	}
	return link, nil
}

// program writes another port into the address where that is the one which is meant,
// and always lets the call go on. Namespaces that a container makes are its own.
func (r redirection) program(cookie uint64, at netip.AddrPort, udp, tcp uint16) []bpfInstruction {
	ip := at.Addr().As4()
	address := []struct{ field, want int32 }{{userIP4, word(ip[:])}}
	if r.ipv6 {
		address = []struct{ field, want int32 }{
			{userIP6, 0}, {userIP6 + 4, 0}, {userIP6 + 8, word([]byte{0, 0, 0xff, 0xff})}, {userIP6 + 12, word(ip[:])},
		}
	}
	const ctx, seen = 6, 1 // registers: r6 is kept over calls
	code := []bpfInstruction{
		{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X, 0x16, 0, 0}, // r6 = r1
		{unix.BPF_JMP | unix.BPF_CALL, 0, 0, netnsCookie},        // r0 = cookie of the socket's namespace
		{unix.BPF_LD | unix.BPF_DW | unix.BPF_IMM, 0x01, 0, int32(uint32(cookie))},
		{0, 0, 0, int32(uint32(cookie >> 32))},                     // r1 = cookie, in two halves
		{unix.BPF_JMP | unix.BPF_JNE | unix.BPF_X, 0x10, toEnd, 0}, // if r0 != r1 go on
	}
	load := func(field int16) {
		code = append(code, bpfInstruction{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W, ctx<<4 | seen, field, 0})
	}
	unless := func(want int32, skip int16) {
		code = append(code, bpfInstruction{unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K, seen, skip, want})
	}
	for _, a := range address {
		load(int16(a.field))
		unless(a.want, toEnd)
	}
	for _, t := range []struct {
		protocol int32
		to       uint16
	}{{unix.IPPROTO_UDP, udp}, {unix.IPPROTO_TCP, tcp}} {
		old, new := port(at.Port()), port(t.to)
		if r.back {
			old, new = new, old
		}
		load(userProtocol)
		unless(t.protocol, 5) // the next protocol
		load(userPort)
		unless(old, toEnd)
		code = append(code,
			bpfInstruction{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, seen, 0, new},
			bpfInstruction{unix.BPF_STX | unix.BPF_MEM | unix.BPF_W, seen<<4 | ctx, userPort, 0},
			bpfInstruction{unix.BPF_JMP | unix.BPF_JA, 0, toEnd, 0},
		)
	}
	end := len(code)
	for i := range code {
		if code[i].offset == toEnd {
			code[i].offset = int16(end - i - 1)
		}
	}
	return append(code,
		bpfInstruction{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, 0x00, 0, 1}, // r0 = 1: as it was asked for
		bpfInstruction{unix.BPF_JMP | unix.BPF_EXIT, 0, 0, 0},
	)
}

// toEnd is the offset of a jump to the end, until that is known.
const toEnd = -1

// word is 4 bytes as the program loads them.
func word(b []byte) int32 { return int32(binary.NativeEndian.Uint32(b)) }

// port is a port in network order, in the lower half of a word on a little-endian
// machine.
func port(p uint16) int32 {
	return word(append(binary.BigEndian.AppendUint16(nil, p), 0, 0))
}
