package network

import (
	"net"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// newNamespace makes a network namespace, which ends with its file.
func newNamespace(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		f   *os.File
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			c <- result{nil, err}
			return
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		c <- result{f, err}
	}()
	r := <-c
	if r.err != nil {
		t.Skipf("NOT RUN: needs a network namespace of its own: %v", r.err)
	}
	t.Cleanup(func() { r.f.Close() })
	return r.f
}

// in runs f in a namespace.
func in(t *testing.T, ns *os.File, f func(h *netlink.Handle) error) {
	t.Helper()
	if err := inNamespace(ns, f); err != nil {
		t.Fatal(err)
	}
}

// addVeth makes a veth pair: name in ns, and its peer, called the same, in peer.
func addVeth(t *testing.T, ns, peer *os.File, name, mac string) {
	t.Helper()
	hw, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	in(t, ns, func(h *netlink.Handle) error {
		veth := &netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1400, HardwareAddr: hw},
			PeerName:  name, PeerNamespace: netlink.NsFd(int(peer.Fd())),
		}
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
		// No addresses but the test's.
		if err := noAutoAddress(veth.Index); err != nil {
			return err
		}
		return h.LinkSetUp(veth)
	})
	in(t, peer, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.LinkSetUp(link)
	})
}

func addAddress(t *testing.T, ns *os.File, name, cidr string) {
	t.Helper()
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		t.Fatal(err)
	}
	addr.Flags = unix.IFA_F_NODAD
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		return h.AddrAdd(link, addr)
	})
}

func addRoute(t *testing.T, ns *os.File, name, dst, gw string, edit ...func(*netlink.Route)) {
	t.Helper()
	_, to, err := net.ParseCIDR(dst)
	if err != nil {
		t.Fatal(err)
	}
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Gw: net.ParseIP(gw)}
		if r.Gw == nil {
			r.Scope = netlink.SCOPE_LINK
		}
		for _, f := range edit {
			f(r)
		}
		return h.RouteAdd(r)
	})
}

// taps are the names of our taps in a namespace.
func taps(t *testing.T, ns *os.File) (names []string) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			if l.Type() == "tuntap" {
				names = append(names, l.Attrs().Name)
			}
		}
		return err
	})
	return names
}

// target is the name of the interface to which all that comes in on another one
// is redirected, "" when it is not.
func target(t *testing.T, ns *os.File, name string) (to string) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		filters, err := h.FilterList(link, ingressHandle)
		if err != nil || len(filters) == 0 {
			return err
		}
		if len(filters) > 1 {
			t.Errorf("%s has %d filters", name, len(filters))
		}
		u32 := filters[0].(*netlink.U32)
		if len(u32.Sel.Keys) != 1 || u32.Sel.Keys[0].Mask != 0 || u32.Protocol != unix.ETH_P_ALL {
			t.Errorf("%s: the filter does not match everything: %+v %+v", name, u32.FilterAttrs, u32.Sel)
		}
		index, ours := redirectsTo(u32)
		if !ours {
			t.Errorf("%s: a filter of somebody else: %+v", name, u32)
		}
		if index != 0 {
			other, err := h.LinkByIndex(index)
			if err != nil {
				return err
			}
			to = other.Attrs().Name
		}
		return nil
	})
	return to
}

// hasIngress reports whether an interface has an ingress qdisc.
func hasIngress(t *testing.T, ns *os.File, name string) (has bool) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		qdiscs, err := h.QdiscList(link)
		for _, q := range qdiscs {
			has = has || q.Type() == "ingress"
		}
		return err
	})
	return has
}
