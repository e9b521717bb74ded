package guest

import (
	"context"
	"errors"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// inNewNetwork runs f on a thread in a network namespace of its own.
func inNewNetwork(t *testing.T, f func(t *testing.T)) {
	done := make(chan error)
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		f(t)
	}()
	if err := <-done; err != nil {
		t.Skipf("NOT RUN: needs a network namespace of its own: %v", err)
	}
}

// addDevice makes a device as the host would plug it; its peer gives it a
// carrier.
func addDevice(t *testing.T, name, mac string) {
	t.Helper()
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		t.Error(err)
		return
	}
	defer h.Close()
	if err := addVeth(h, name, mac); err != nil {
		t.Error(err)
	}
}

func addVeth(h *netlink.Handle, name, mac string) error {
	err := h.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, HardwareAddr: hardware(mac)}, PeerName: name + "peer",
	})
	if err != nil {
		return err
	}
	peer, err := h.LinkByName(name + "peer")
	if err != nil {
		return err
	}
	return h.LinkSetUp(peer)
}

func hardware(mac string) net.HardwareAddr {
	hw, _ := net.ParseMAC(mac)
	return hw
}

func ip(s string) []byte {
	if v4 := net.ParseIP(s).To4(); v4 != nil {
		return v4
	}
	return net.ParseIP(s)
}

const (
	macA, macB, macC = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"
)

func unicast(dev, dst string, prefix uint32, gateway string) *api.Route {
	r := &api.Route{Interface: dev, Destination: ip(dst), Prefix: prefix, Type: unix.RTN_UNICAST, Protocol: unix.RTPROT_STATIC}
	if gateway == "" {
		r.Scope = unix.RT_SCOPE_LINK
	} else {
		r.Gateway = ip(gateway)
	}
	return r
}

func request() *api.ConfigureNetworkRequest {
	return &api.ConfigureNetworkRequest{
		Interfaces: []*api.Interface{{
			// The two have each other's name at first.
			Name: "eth1", DeviceMac: hardware(macA), Mac: hardware(macA), Mtu: 1400,
			Addresses: []*api.Address{
				{Ip: ip("10.9.0.2"), Prefix: 24, Broadcast: ip("10.9.0.255")},
				{Ip: ip("fd00:9::2"), Prefix: 64},
				{Ip: ip("fe80::2"), Prefix: 64, Scope: unix.RT_SCOPE_LINK},
				{Ip: ip("fd00:7::2"), Prefix: 64, Valid: 5000, Preferred: 4000},
			},
			Neighbours: []*api.Neighbour{{Ip: ip("10.9.0.1"), Mac: hardware(macC)}},
		}, {
			Name: "eth0", DeviceMac: hardware(macB), Mac: hardware(macB), Mtu: 9000, AcceptRa: true,
			Addresses: []*api.Address{{Ip: ip("10.8.0.2"), Prefix: 32, Peer: ip("10.8.0.1")}},
		}},
		Routes: []*api.Route{
			unicast("eth1", "10.9.0.0", 24, ""),
			unicast("eth1", "fd00:9::", 64, ""),
			unicast("eth0", "169.254.1.1", 32, ""),
			{Destination: ip("10.5.0.0"), Prefix: 16, Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_STATIC},
			unicast("eth0", "10.6.0.0", 16, "169.254.1.1"),
			{Interface: "eth1", Destination: ip("0.0.0.0"), Gateway: ip("10.9.0.1"), Source: ip("10.9.0.2"), Metric: 50, Mtu: 1300, Type: unix.RTN_UNICAST},
			{Interface: "eth0", Destination: ip("10.4.0.0"), Prefix: 16, Gateway: ip("10.3.3.3"), Onlink: true, Type: unix.RTN_UNICAST},
			unicast("eth1", "::", 0, "fd00:9::1"),
		},
	}
}

// network lists addresses, routes and neighbours of an interface, in short.
func network(t *testing.T, name string) (found []string) {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return nil
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	for _, a := range addrs {
		text := a.IPNet.String()
		if a.Peer != nil {
			text += " peer " + a.Peer.String()
		}
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			text += " tentative"
		}
		if a.Flags&unix.IFA_F_PERMANENT == 0 {
			text += " temporary"
		}
		found = append(found, text)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, rerr := netlink.RouteList(link, family)
		err = errors.Join(err, rerr)
		for _, r := range routes {
			text := r.Dst.String()
			if r.Gw != nil {
				text += " via " + r.Gw.String()
			}
			if r.Flags&unix.RTNH_F_ONLINK != 0 {
				text += " onlink"
			}
			found = append(found, text)
		}
	}
	neighbours, nerr := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	for _, n := range neighbours {
		if n.State == netlink.NUD_PERMANENT {
			found = append(found, n.IP.String()+" at "+n.HardwareAddr.String())
		}
	}
	if err := errors.Join(err, nerr); err != nil {
		t.Error(err)
	}
	slices.Sort(found)
	return found
}

func checkNetworkIs(t *testing.T, name string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := network(t, name); !slices.Equal(got, want) {
		t.Errorf("%s has\n\t%s\nwant\n\t%s", name, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func configure(t *testing.T, n *Network, req *api.ConfigureNetworkRequest) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return n.Configure(ctx, req)
}

func TestConfigureNetwork(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		addDevice(t, "eth0", macA)
		addDevice(t, "eth1", macB)
		n := &Network{Modules: &Modules{loaded: map[string]bool{}}}
		for range 2 { // the second time nothing is new
			if err := configure(t, n, request()); err != nil {
				t.Error(err)
				return
			}
			checkNetworkIs(t, "eth1",
				"10.9.0.2/24", "fd00:9::2/64", "fe80::2/64", "fd00:7::2/64 temporary",
				"10.9.0.0/24", "fd00:9::/64", "0.0.0.0/0 via 10.9.0.1", "::/0 via fd00:9::1",
				"10.9.0.1 at "+macC)
			checkNetworkIs(t, "eth0",
				"10.8.0.2/32 peer 10.8.0.1/32", "169.254.1.1/32", "10.6.0.0/16 via 169.254.1.1", "10.4.0.0/16 via 10.3.3.3 onlink")
		}
		checkLinks(t)
		unreachable, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Type: unix.RTN_UNREACHABLE}, netlink.RT_FILTER_TYPE)
		if err != nil || len(unreachable) != 1 || unreachable[0].Dst.String() != "10.5.0.0/16" {
			t.Errorf("unreachable: %v, %v", unreachable, err)
		}

		// What is not named any more goes; a lifetime is no new address.
		req := request()
		req.Interfaces[0].Addresses = req.Interfaces[0].Addresses[1:]
		req.Interfaces[0].Addresses[2].Valid = 6000
		req.Interfaces[0].Neighbours = nil
		req.Routes = []*api.Route{unicast("eth1", "fd00:9::", 64, ""), unicast("eth0", "10.8.0.1", 32, ""), unicast("eth0", "0.0.0.0", 0, "10.8.0.1")}
		if err := configure(t, n, req); err != nil {
			t.Error(err)
		}
		checkNetworkIs(t, "eth1", "fd00:9::2/64", "fe80::2/64", "fd00:7::2/64 temporary", "fd00:9::/64")
		checkNetworkIs(t, "eth0", "10.8.0.2/32 peer 10.8.0.1/32", "10.8.0.1/32", "0.0.0.0/0 via 10.8.0.1")
	})
}

func checkLinks(t *testing.T) {
	t.Helper()
	for name, want := range map[string]struct {
		mac string
		mtu int
		ra  string
	}{"eth1": {macA, 1400, "0\n"}, "eth0": {macB, 9000, "1\n"}} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Error(err)
			continue
		}
		ra, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/accept_ra")
		if l := link.Attrs(); l.HardwareAddr.String() != want.mac || l.MTU != want.mtu || l.Flags&net.FlagUp == 0 || string(ra) != want.ra {
			t.Errorf("%s: %+v, accept_ra %q, %v", name, l, ra, err)
		}
	}
}

// An error in between is repaired by the next call, also with another request.
func TestConfigureNetworkAgain(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		addDevice(t, "eth0", macA)
		n := &Network{Modules: &Modules{loaded: map[string]bool{}}}
		req := request()
		req.Interfaces = req.Interfaces[:1]
		req.Routes = []*api.Route{unicast("eth1", "10.9.0.0", 24, ""), unicast("eth1", "10.2.0.0", 16, "10.1.1.1")}
		err := configure(t, n, req)
		if !errors.Is(err, unix.ENETUNREACH) || !strings.Contains(err.Error(), "route to 10.2.0.0/16 via 10.1.1.1 on eth1") {
			t.Errorf("unreachable gateway: %v", err)
		}
		req = proto.CloneOf(req)
		req.Interfaces[0].Addresses, req.Interfaces[0].Neighbours = req.Interfaces[0].Addresses[1:2], nil
		req.Routes = nil
		if err := configure(t, n, req); err != nil {
			t.Error(err)
		}
		checkNetworkIs(t, "eth1", "fd00:9::2/64")
	})
}

// A device that comes later is waited for, and the wait ends with the context.
func TestConfigureNetworkWaits(t *testing.T) {
	inNewNetwork(t, func(t *testing.T) {
		n := &Network{Modules: &Modules{loaded: map[string]bool{}}}
		req := &api.ConfigureNetworkRequest{Interfaces: request().Interfaces[:1]}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if err := n.Configure(ctx, req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no device: %v", err)
		}
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			t.Error(err)
			return
		}
		defer h.Close()
		timer := time.AfterFunc(30*time.Millisecond, func() {
			if err := addVeth(h, "late", macA); err != nil {
				t.Error(err)
			}
		})
		defer timer.Stop()
		req.Interfaces[0].Mac = hardware(macC) // not that of the device
		if err := configure(t, n, req); err != nil {
			t.Error(err)
		}
		if link, err := netlink.LinkByName("eth1"); err != nil || link.Attrs().HardwareAddr.String() != macC {
			t.Errorf("link %+v, %v", link, err)
		}
	})
}

func TestConfigureNetworkRefuses(t *testing.T) {
	n := &Network{Modules: &Modules{loaded: map[string]bool{}}}
	for name, edit := range map[string]func(*api.ConfigureNetworkRequest){
		"lo":              func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Name = "lo" },
		"no name":         func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Name = "" },
		"long name":       func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Name = strings.Repeat("x", 16) },
		"path":            func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Name = "../x" },
		"name in use":     func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Name = "eth0" },
		"device in use":   func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].DeviceMac = hardware(macB) },
		"no device":       func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].DeviceMac = nil },
		"short address":   func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Addresses[0].Ip = []byte{1} },
		"long prefix":     func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Addresses[0].Prefix = 33 },
		"peer's family":   func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Addresses[0].Peer = ip("fd00::1") },
		"neighbour":       func(r *api.ConfigureNetworkRequest) { r.Interfaces[0].Neighbours[0].Mac = nil },
		"route's device":  func(r *api.ConfigureNetworkRequest) { r.Routes[0].Interface = "eth7" },
		"route's address": func(r *api.ConfigureNetworkRequest) { r.Routes[0].Destination = nil },
		"gateway":         func(r *api.ConfigureNetworkRequest) { r.Routes[0].Gateway = []byte{1, 2} },
		"type":            func(r *api.ConfigureNetworkRequest) { r.Routes[0].Type = 256 },
	} {
		req := request()
		edit(req)
		if err := n.Configure(t.Context(), req); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
