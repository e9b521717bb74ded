package network

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
	"github.com/vc-runtime/vc-runtime/virtcontainers/network"
)

// in runs f on a thread in a network namespace; nil is a new one.
func in(t *testing.T, ns *os.File, f func(h *netlink.Handle) error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		done <- func() error {
			var err error
			if ns == nil {
				err = unix.Unshare(unix.CLONE_NEWNET)
			} else {
				err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
			}
			if err != nil {
				return err
			}
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer h.Close()
			return f(h)
		}()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a network namespace, which ends with its file.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	var ns *os.File
	in(t, nil, func(*netlink.Handle) (err error) {
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	t.Cleanup(func() { ns.Close() })
	return ns
}

// wire connects two namespaces with an interface of the same name in both.
func wire(t *testing.T, pod, outside *os.File, name string, podAddrs, outsideAddrs []string) {
	t.Helper()
	in(t, pod, func(h *netlink.Handle) error {
		return h.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1450}, PeerName: name, PeerMTU: 1450,
			PeerNamespace: netlink.NsFd(int(outside.Fd())),
		})
	})
	for ns, addrs := range map[*os.File][]string{pod: podAddrs, outside: outsideAddrs} {
		in(t, ns, func(h *netlink.Handle) error {
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			for _, s := range addrs {
				addr, err := netlink.ParseAddr(s)
				if err != nil {
					return err
				}
				addr.Flags = unix.IFA_F_NODAD
				if err := h.AddrAdd(link, addr); err != nil {
					return err
				}
			}
			return h.LinkSetUp(link)
		})
	}
	// The kernel gives both ends an address when it has seen the link come up, which
	// it does on a thread of its own.
	for _, ns := range []*os.File{pod, outside} {
		testenv.Eventually(t, time.Minute, func() error { return hasLinkLocal(t, ns, name) })
	}
}

func hasLinkLocal(t *testing.T, ns *os.File, name string) (missing error) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		addrs, err := h.AddrList(link, netlink.FAMILY_V6)
		if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.IsLinkLocalUnicast() }) {
			missing = fmt.Errorf("%s has no link-local address: %v", name, addrs)
		}
		return err
	})
	return missing
}

func addDefault(t *testing.T, ns *os.File, gateways ...string) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		for _, gw := range gateways {
			if err := h.RouteAdd(&netlink.Route{Gw: net.ParseIP(gw)}); err != nil {
				return err
			}
		}
		return nil
	})
}

// ping sends three echo requests from a namespace.
func ping(t *testing.T, ns *os.File, address string) {
	t.Helper()
	var out []byte
	in(t, ns, func(*netlink.Handle) (err error) {
		// A child is in the namespace of the thread that makes it.
		out, err = exec.CommandContext(limit(t), "busybox", "ping", "-c", "3", "-i", "0.2", "-W", "5", address).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("ping %s: %w: %s", address, err, out)
		}
		return err
	})
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Logf("ping %s: %s", address, lines[len(lines)-1])
}

// listen makes a server's socket in a namespace.
func listen(t *testing.T, ns *os.File, address string) net.Listener {
	t.Helper()
	var l net.Listener
	in(t, ns, func(*netlink.Handle) (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	return l
}

func accept(t *testing.T, l net.Listener) net.Conn {
	t.Helper()
	l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(2 * time.Minute))
	t.Cleanup(func() { conn.Close() })
	return conn
}

func attach(t *testing.T, pod *os.File, mode network.Mode, queues int) *network.Attachment {
	t.Helper()
	begun := time.Now()
	a, err := network.Attach(t.Context(), pod, network.Options{Mode: mode, Queues: queues, Vhost: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("attach: %v", time.Since(begun).Round(100*time.Microsecond))
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func sync(t *testing.T, a *network.Attachment, m machine) {
	t.Helper()
	begun := time.Now()
	if err := a.Sync(limit(t), m, m); err != nil {
		t.Fatal(err)
	}
	t.Logf("sync: %v", time.Since(begun).Round(100*time.Microsecond))
}

// The guest has the namespace's network, talks to its peers, and gets what is
// added later.
func TestGuestNetwork(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) { guestNetwork(t, mode) })
	}
}

var modes = []network.Mode{network.ModeTC, network.ModeMacvtap}

func guestNetwork(t *testing.T, mode network.Mode) {
	pod, outside := newNamespace(t), newNamespace(t)
	wire(t, pod, outside, "eth1", []string{"10.9.0.2/24", "fd00:9::2/64"}, []string{"10.9.0.1/24", "fd00:9::1/64"})
	addDefault(t, pod, "10.9.0.1", "fd00:9::1")
	a := attach(t, pod, mode, 1)
	m := boot(t, 1)
	t.Cleanup(func() { m.Kill() }) // before the attachment's end
	sync(t, a, m)
	ping(t, outside, "10.9.0.2") // at once: the network is complete
	ping(t, outside, "fd00:9::2")
	sync(t, a, m)

	// A second network, wired between create and start.
	wire(t, pod, outside, "eth0", []string{"10.8.0.2/24"}, []string{"10.8.0.1/24"})
	sync(t, a, m)
	ping(t, outside, "10.8.0.2")
	ping(t, outside, "10.9.0.2")

	m.run(t)
	in(t, pod, func(h *netlink.Handle) error {
		for _, name := range []string{"eth0", "eth1"} {
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			inGuest := m.sh(t, "ip addr show "+name)
			for _, want := range []string{"mtu 1450", "UP,LOWER_UP", link.Attrs().HardwareAddr.String()} {
				if !strings.Contains(inGuest, want) {
					t.Errorf("%s: no %q in %s", name, want, inGuest)
				}
			}
			addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
			for _, addr := range addrs {
				if !strings.Contains(inGuest, " "+addr.IPNet.String()+" ") {
					t.Errorf("%s: no %s in %s", name, addr.IPNet, inGuest)
				}
			}
			if n := strings.Count(inGuest, "inet"); n != len(addrs) || err != nil {
				t.Errorf("%s: %d addresses instead of %d (%v): %s", name, n, len(addrs), err, inGuest)
			}
		}
		return nil
	})
	for _, command := range []string{"ip route", "ip -6 route"} {
		if out := m.sh(t, command); !strings.Contains(out, "default via ") || !strings.Contains(out, " dev eth1 ") {
			t.Errorf("%s: %s", command, out)
		}
	}
	m.sh(t, "ping -c 1 -W 5 10.9.0.1; ping -c 1 -W 5 10.8.0.1; ping -6 -c 1 -W 5 fd00:9::1")
	t.Run("transfer", func(t *testing.T) { transfer(t, m, outside) })
	t.Run("interface goes", func(t *testing.T) {
		in(t, pod, func(h *netlink.Handle) error {
			link, err := h.LinkByName("eth0")
			if err != nil {
				return err
			}
			return h.LinkDel(link)
		})
		sync(t, a, m)
		if out := m.sh(t, "ip addr"); strings.Contains(out, "eth0") {
			t.Errorf("still there: %s", out)
		}
		ping(t, outside, "10.9.0.2")
	})
}

// transfer moves bytes both ways, and checks them.
func transfer(t *testing.T, m machine, outside *os.File) {
	const size = 64 << 20
	data := make([]byte, 1<<20)
	rand.Read(data)
	l := listen(t, outside, "10.9.0.1:5000")

	out := m.start(t, "down", "nc 10.9.0.1 5000 | sha256sum")
	conn := accept(t, l)
	sum := sha256.New()
	for range 16 {
		sum.Write(data)
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	conn.(*net.TCPConn).CloseWrite()
	text, err := io.ReadAll(out)
	if want := hex.EncodeToString(sum.Sum(nil)); err != nil || !strings.HasPrefix(string(text), want) {
		t.Errorf("to the guest: %s, %v, want %s", text, err, want)
	}

	out = m.start(t, "fast-down", "stream receive 10.9.0.1:5000")
	conn = accept(t, l)
	begun := time.Now()
	before := counters(t, outside)
	for range size / len(data) {
		if _, err := conn.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	conn.(*net.TCPConn).CloseWrite()
	text, err = io.ReadAll(out)
	if err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(size) {
		t.Errorf("to the guest: %q of %d bytes, %v", text, size, err)
	}
	report(t, "to the guest", size, begun)
	after := counters(t, outside)
	wantLarge(t, "to the guest", after.TxBytes-before.TxBytes, after.TxPackets-before.TxPackets)

	out = m.start(t, "fast-up", fmt.Sprintf("stream send 10.9.0.1:5000 %d", size))
	conn = accept(t, l)
	begun = time.Now()
	before = counters(t, outside)
	n, err := io.Copy(io.Discard, conn)
	if n != size || err != nil {
		rest, _ := io.ReadAll(out)
		t.Errorf("from the guest: %d of %d bytes, %v: %s", n, size, err, rest)
	}
	report(t, "from the guest", size, begun)
	out.Close()
	after = counters(t, outside)
	wantLarge(t, "from the guest", after.RxBytes-before.RxBytes, after.RxPackets-before.RxPackets)
}

// wantLarge: segmentation is left to whoever is last.
func wantLarge(t *testing.T, what string, bytes, packets uint64) {
	t.Helper()
	mean := bytes / max(1, packets)
	t.Logf("packets %s have %d bytes on average", what, mean)
	if mean < 2*1450 {
		t.Errorf("packets %s are cut, instead of leaving that to whoever is last", what)
	}
}

// counters gives those of the peer's interface.
func counters(t *testing.T, outside *os.File) (s netlink.LinkStatistics64) {
	t.Helper()
	in(t, outside, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth1")
		if err == nil {
			s = netlink.LinkStatistics64(*link.Attrs().Statistics)
		}
		return err
	})
	return s
}

func report(t *testing.T, what string, size int, begun time.Time) {
	took := time.Since(begun)
	t.Logf("TCP %s: %d MiB in %v, %.0f MB/s", what, size>>20, took.Round(time.Millisecond), float64(size)/1e6/took.Seconds())
}

// All queues are in use: also those for which the guest's driver finds no CPU of
// its own, and so leaves to who asks for them. And a plug that fails takes no slot.
func TestMultiQueue(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) { multiQueue(t, mode) })
	}
}

func multiQueue(t *testing.T, mode network.Mode) {
	pod, outside := newNamespace(t), newNamespace(t)
	wire(t, pod, outside, "eth0", []string{"10.9.0.2/24"}, []string{"10.9.0.1/24"})
	m := boot(t, 2)
	a := attach(t, pod, mode, 3)
	t.Cleanup(func() { m.Kill() })
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for range slots + 1 {
		nic := hypervisor.NIC{Taps: []*os.File{null}, MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
		if _, err := m.PlugNIC(limit(t), nic); err == nil || errors.Is(err, hypervisor.ErrNoSlot) {
			t.Fatalf("plug of what is no tap: %v", err)
		}
	}
	sync(t, a, m)
	ping(t, outside, "10.9.0.2")
	m.run(t)
	out := m.sh(t, "ls /sys/class/net/eth0/queues")
	for _, queue := range []string{"rx-0", "rx-1", "rx-2", "tx-0", "tx-1", "tx-2"} {
		if !strings.Contains(out, queue) {
			t.Errorf("no queue %s: %q", queue, strings.Fields(out))
		}
	}
}

// A killed VM leaves no tap, whether its monitor cleans up or not.
func TestKilledMachine(t *testing.T) {
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) { killedMachine(t, mode) })
	}
}

func killedMachine(t *testing.T, mode network.Mode) {
	pod, outside := newNamespace(t), newNamespace(t)
	wire(t, pod, outside, "eth0", []string{"10.9.0.2/24"}, []string{"10.9.0.1/24"})
	m := boot(t, 1)
	a := attach(t, pod, mode, 1)
	sync(t, a, m)
	names := func() (found []string) {
		in(t, pod, func(h *netlink.Handle) error {
			links, err := h.LinkList()
			for _, l := range links {
				found = append(found, l.Attrs().Name)
			}
			return err
		})
		return found
	}
	want := map[network.Mode]int{network.ModeTC: 3, network.ModeMacvtap: 2}[mode]
	if before := names(); len(before) != want {
		t.Fatalf("interfaces %q, want %d", before, want)
	}
	if err := m.Kill(); err != nil {
		t.Fatal(err)
	}
	if after := names(); len(after) != 2 {
		t.Errorf("interfaces %q", after)
	}
	// The next machine of the namespace.
	if mode == network.ModeMacvtap {
		if err := a.Close(t.Context()); err != nil { // nobody has killed us
			t.Fatal(err)
		}
	}
	next := boot(t, 1)
	b := attach(t, pod, mode, 1)
	t.Cleanup(func() { next.Kill() })
	sync(t, b, next)
	ping(t, outside, "10.9.0.2")
}
