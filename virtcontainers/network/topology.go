package network

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// topology is what is in a namespace.
type topology struct {
	interfaces []*netInterface // by index
	routes     []*api.Route    // in an order in which they can be added
}

// netInterface is an interface that carries packets.
type netInterface struct {
	index  int
	kind   string         // of the driver, as ip(8) has it
	config *api.Interface // without DeviceMac
}

func (t *topology) has(index int) bool { return t.name(index) != "" }

// name is that of an interface, "" for one that is not in the topology.
func (t *topology) name(index int) string {
	for _, i := range t.interfaces {
		if i.index == index {
			return i.config.Name
		}
	}
	return ""
}

// readTopology reads the namespace of the calling thread, which h is in as
// well.
func readTopology(h *netlink.Handle) (*topology, error) {
	links, err := dump(h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	t := &topology{}
	for _, link := range links {
		i, err := describe(link)
		if err != nil {
			return nil, fmt.Errorf("interface %s (%s): %w", link.Attrs().Name, link.Type(), err)
		}
		if i != nil {
			t.interfaces = append(t.interfaces, i)
		}
	}
	slices.SortFunc(t.interfaces, func(a, b *netInterface) int { return cmp.Compare(a.index, b.index) })
	if len(t.interfaces) == 0 {
		return t, nil
	}
	if err := t.addAddresses(h); err != nil {
		return nil, err
	}
	if err := t.addNeighbours(h); err != nil {
		return nil, err
	}
	return t, t.addRoutes(h)
}

// describe gives nil for an interface that the guest does not get.
func describe(link netlink.Link) (*netInterface, error) {
	a := link.Attrs()
	switch {
	case a.Flags&net.FlagLoopback != 0, a.Flags&net.FlagUp == 0, a.MasterIndex != 0,
		strings.HasPrefix(a.Name, tapPrefix):
		return nil, nil
	case a.EncapType != "ether" || len(a.HardwareAddr) != 6:
		return nil, fmt.Errorf("it is no Ethernet (%s): %w", a.EncapType, ErrUnsupported)
	}
	return &netInterface{index: a.Index, kind: link.Type(), config: &api.Interface{
		Name: a.Name, Mac: a.HardwareAddr, Mtu: uint32(a.MTU), AcceptRa: acceptsRA(a.Name),
	}}, nil
}

// acceptsRA reports whether the interface heeds router advertisements. The files
// in this folder are those of the calling thread's namespace.
func acceptsRA(name string) bool {
	b, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_ra"))
	return err == nil && strings.TrimSpace(string(b)) != "0"
}

func (t *topology) addAddresses(h *netlink.Handle) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return h.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, i := range t.interfaces {
		for _, a := range addrs {
			// Somebody else has the address where its detection failed.
			if a.LinkIndex == i.index && a.Flags&unix.IFA_F_DADFAILED == 0 {
				i.config.Addresses = append(i.config.Addresses, address(a))
			}
		}
	}
	return nil
}

func address(a netlink.Addr) *api.Address {
	prefix, _ := a.Mask.Size()
	out := &api.Address{Ip: a.IP, Prefix: uint32(prefix), Scope: uint32(a.Scope), Broadcast: a.Broadcast}
	if a.Peer != nil {
		prefix, _ = a.Peer.Mask.Size()
		out.Peer, out.Prefix = a.Peer.IP, uint32(prefix)
	}
	if a.Flags&unix.IFA_F_PERMANENT == 0 {
		out.Valid, out.Preferred = uint32(a.ValidLft), uint32(a.PreferedLft)
	}
	return out
}

// addNeighbours takes those that somebody has written down: the others the
// guest finds by itself.
func (t *topology) addNeighbours(h *netlink.Handle) error {
	neighbours, err := dump(func() ([]netlink.Neigh, error) { return h.NeighList(0, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for _, i := range t.interfaces {
		for _, n := range neighbours {
			if n.LinkIndex == i.index && n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 && n.IP != nil {
				i.config.Neighbours = append(i.config.Neighbours, &api.Neighbour{Ip: n.IP, Mac: n.HardwareAddr})
			}
		}
	}
	return nil
}

func (t *topology) addRoutes(h *netlink.Handle) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) { return h.RouteList(nil, family) })
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range routes {
			out, err := t.route(r)
			if err != nil {
				return fmt.Errorf("route to %s: %w", r.Dst, err)
			}
			if out != nil {
				t.routes = append(t.routes, out)
			}
		}
	}
	// A gateway must be known to be on the link when its route is added.
	slices.SortStableFunc(t.routes, func(a, b *api.Route) int { return cmp.Compare(rank(a), rank(b)) })
	return nil
}

func rank(r *api.Route) int {
	switch {
	case len(r.Gateway) == 0:
		return 0
	case r.Prefix > 0:
		return 1
	}
	return 2
}

// route gives nil for a route that leads to nothing that the guest has.
func (t *topology) route(r netlink.Route) (*api.Route, error) {
	if r.Flags&unix.RTNH_F_DEAD != 0 {
		return nil, nil
	}
	out := &api.Route{
		Destination: destination(r), Gateway: r.Gw, Source: r.Src,
		Type: uint32(r.Type), Scope: uint32(r.Scope), Protocol: uint32(r.Protocol),
		Metric: uint32(r.Priority), Tos: uint32(r.Tos),
		Onlink: r.Flags&unix.RTNH_F_ONLINK != 0,
		Mtu:    uint32(r.MTU), Advmss: uint32(r.AdvMSS),
	}
	prefix, _ := r.Dst.Mask.Size()
	out.Prefix = uint32(prefix)
	switch r.Type {
	case unix.RTN_BLACKHOLE, unix.RTN_UNREACHABLE, unix.RTN_PROHIBIT, unix.RTN_THROW:
		return out, nil
	case unix.RTN_UNICAST:
	default:
		return nil, fmt.Errorf("type %d: %w", r.Type, ErrUnsupported)
	}
	switch via, _ := r.Via.(*netlink.Via); {
	case len(r.MultiPath) > 0:
		return nil, fmt.Errorf("several gateways: %w", ErrUnsupported)
	case r.Encap != nil:
		return nil, fmt.Errorf("encapsulation %s: %w", r.Encap, ErrUnsupported)
	case via != nil:
		out.Gateway = via.Addr
	}
	out.Interface = t.name(r.LinkIndex)
	if out.Interface == "" {
		return nil, nil
	}
	return out, nil
}

// destination has the length that its family has, which the library's default
// routes do not.
func destination(r netlink.Route) net.IP {
	if r.Family == netlink.FAMILY_V4 {
		return r.Dst.IP.To4()
	}
	return r.Dst.IP
}

// dump lists something of the kernel, again where that has changed meanwhile.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	const most = 10
	for i := 0; ; i++ {
		found, err := list()
		if i == most || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return found, err
		}
	}
}
