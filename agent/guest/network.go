package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// netModules is the module group that network devices need.
const netModules = "net"

// Network gives the guest the network that the host describes.
type Network struct {
	Modules *Modules

	mu   sync.Mutex                   // held during a call, which its ctx ends
	last *api.ConfigureNetworkRequest // what was set up; guarded by mu
}

// Configure sets up interfaces and routes, waiting until the kernel has found
// the devices and they can carry packets. It can be called again, with the same
// request, after an error, or with another one: what only an earlier one names
// goes.
func (n *Network) Configure(ctx context.Context, req *api.ConfigureNetworkRequest) error {
	if err := checkNetwork(req); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	ev, err := listenLinks()
	if err != nil {
		return err
	}
	defer ev.close()
	if len(req.Interfaces) > 0 {
		if err := n.Modules.Load(netModules); err != nil {
			return err
		}
	}
	c, err := openRtnetlink()
	if err != nil {
		return err
	}
	defer c.close()

	links, err := findDevices(ctx, ev, req.Interfaces)
	if err != nil {
		return fmt.Errorf("wait for the network devices: %w", err)
	}
	stale, last := n.last, req
	if stale != nil { // an error may leave things of both
		last = proto.CloneOf(stale)
		proto.Merge(last, req)
	}
	n.last = last
	s := setup{c: c, links: links}
	if err := s.change(stale, req); err != nil {
		return err
	}
	if err := waitCarrier(ctx, ev, links); err != nil {
		return fmt.Errorf("wait for the network's carrier: %w", err)
	}
	n.last = req
	return nil
}

// findDevices waits until each of the interfaces has its device, and gives them
// by the name that they are to have.
func findDevices(ctx context.Context, ev *events, want []*api.Interface) (map[string]link, error) {
	for {
		links, err := readLinks()
		if err != nil {
			return nil, err
		}
		found := make(map[string]link)
		for _, l := range links {
			for _, i := range want {
				if bytes.Equal(l.perm, i.DeviceMac) {
					found[i.Name] = l
				}
			}
		}
		if len(found) == len(want) {
			return found, nil
		}
		if err := ev.wait(ctx); err != nil {
			return nil, fmt.Errorf("%d of %d are there: %w", len(found), len(want), err)
		}
	}
}

// carries are the flags of an interface that packets pass: the driver has found
// its carrier, and the kernel has told its protocols so (both come some time after
// the device).
const carries = unix.IFF_LOWER_UP | unix.IFF_RUNNING

// waitCarrier waits until packets can be sent over all of the devices.
func waitCarrier(ctx context.Context, ev *events, devices map[string]link) error {
	for {
		links, err := readLinks()
		if err != nil {
			return err
		}
		down := len(devices)
		for _, l := range links {
			if d, ours := devices[l.name]; ours && d.index == l.index && l.flags&carries == carries {
				down--
			}
		}
		if down == 0 {
			return nil
		}
		if err := ev.wait(ctx); err != nil {
			return fmt.Errorf("%d of %d have none: %w", down, len(devices), err)
		}
	}
}

// setup is one call of Configure.
type setup struct {
	c     *rtnetlink
	links map[string]link // by the name to be given
}

// change makes of the network that was asked for last the one of req.
func (s *setup) change(last, req *api.ConfigureNetworkRequest) error {
	if err := s.remove(last, req); err != nil {
		return err
	}
	return s.apply(req)
}

// apply makes everything that the request names; what is there stays.
func (s *setup) apply(req *api.ConfigureNetworkRequest) error {
	if err := s.rename(); err != nil {
		return err
	}
	for _, i := range req.Interfaces {
		if err := s.makeInterface(i); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	for _, r := range req.Routes {
		// The kernel tells two gateways of one destination apart, and refuses
		// what it has already.
		err := s.route(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, r)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add %s: %w", routeText(r), err)
		}
	}
	return nil
}

// rename gives each interface its name, over a name of its own, because two may
// have each other's.
func (s *setup) rename() error {
	var renamed []string
	for name, l := range s.links {
		if l.name == name {
			continue
		}
		if err := s.setName(l, "vc"+strconv.Itoa(int(l.index))); err != nil {
			return err
		}
		renamed = append(renamed, name)
	}
	for _, name := range renamed {
		if err := s.setName(s.links[name], name); err != nil {
			return err
		}
	}
	return nil
}

func (s *setup) setName(l link, name string) error {
	body := attr(ifinfomsg(l.index, 0, 0), unix.IFLA_IFNAME, append([]byte(name), 0))
	if err := s.c.do(unix.RTM_SETLINK, 0, body); err != nil {
		return fmt.Errorf("rename interface %s to %s: %w", l.name, name, err)
	}
	return nil
}

// makeInterface sets up one interface but its routes.
func (s *setup) makeInterface(i *api.Interface) error {
	l := s.links[i.Name]
	if err := noAutoAddress(s.c, l, i); err != nil {
		return err
	}
	body := ifinfomsg(l.index, 0, 0)
	if l.mtu != i.Mtu {
		body = attr32(body, unix.IFLA_MTU, i.Mtu)
	}
	if !bytes.Equal(l.mac, i.Mac) {
		body = attr(body, unix.IFLA_ADDRESS, i.Mac)
	}
	if err := s.c.do(unix.RTM_SETLINK, 0, body); err != nil {
		return fmt.Errorf("set MTU %d and hardware address %s: %w", i.Mtu, net.HardwareAddr(i.Mac), err)
	}
	if err := useQueues(i.Name); err != nil {
		return err
	}
	for _, a := range i.Addresses {
		if err := s.c.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, addressBody(l, a)); err != nil {
			return fmt.Errorf("add address %s/%d: %w", net.IP(a.Ip), a.Prefix, err)
		}
	}
	if err := s.c.do(unix.RTM_SETLINK, 0, ifinfomsg(l.index, unix.IFF_UP, unix.IFF_UP)); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	for _, nb := range i.Neighbours {
		if err := s.c.do(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, neighbourBody(l, nb)); err != nil {
			return fmt.Errorf("add neighbour %s: %w", net.IP(nb.Ip), err)
		}
	}
	return nil
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenNone = 1

// noAutoAddress keeps the kernel from giving the interface IPv6 addresses that
// the host's does not have. A kernel without IPv6 gives none.
func noAutoAddress(c *rtnetlink, l link, i *api.Interface) error {
	inet6 := attr(nil, unix.AF_INET6, attr(nil, unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenNone}))
	err := c.do(unix.RTM_SETLINK, 0, attr(ifinfomsg(l.index, 0, 0), unix.IFLA_AF_SPEC, inet6))
	if err != nil && !errors.Is(err, unix.EAFNOSUPPORT) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("turn off generated addresses: %w", err)
	}
	if i.AcceptRa {
		return nil
	}
	// The kernel has accepted the name, so it is one of a file.
	err = os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", i.Name, "accept_ra"), []byte("0"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("turn off router advertisements: %w", err)
	}
	return nil
}

// remove takes away what the last request named and req does not. What
// has gone by itself is fine.
func (s *setup) remove(last, req *api.ConfigureNetworkRequest) error {
	if last == nil {
		return nil
	}
	var errs []error
	for _, r := range last.Routes {
		if !holds(req.Routes, r) {
			errs = append(errs, s.route(unix.RTM_DELROUTE, 0, r))
		}
	}
	for _, old := range last.Interfaces {
		l, ok := s.links[old.Name]
		if !ok {
			continue // it goes with its device
		}
		now := req.Interfaces[slices.IndexFunc(req.Interfaces, func(i *api.Interface) bool { return i.Name == old.Name })]
		for _, nb := range old.Neighbours {
			if !holds(now.Neighbours, nb) {
				errs = append(errs, s.c.do(unix.RTM_DELNEIGH, 0, neighbourBody(l, nb)))
			}
		}
		for _, a := range old.Addresses {
			// A lifetime is changed by adding the address again.
			if !slices.ContainsFunc(now.Addresses, func(b *api.Address) bool { return sameAddress(a, b) }) {
				errs = append(errs, s.c.do(unix.RTM_DELADDR, 0, addressBody(l, a)))
			}
		}
	}
	for _, err := range errs {
		if err != nil && !isGone(err) {
			return fmt.Errorf("remove an earlier set-up: %w", err)
		}
	}
	return nil
}

func sameAddress(a, b *api.Address) bool {
	return bytes.Equal(a.Ip, b.Ip) && a.Prefix == b.Prefix && bytes.Equal(a.Peer, b.Peer)
}

func holds[M proto.Message](list []M, m M) bool {
	return slices.ContainsFunc(list, func(other M) bool { return proto.Equal(other, m) })
}

// isGone tells the answers to the removal of what is not there.
func isGone(err error) bool {
	for _, gone := range []error{unix.ESRCH, unix.ENOENT, unix.EADDRNOTAVAIL, unix.ENODEV} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// route adds or deletes a route.
func (s *setup) route(kind, flags uint16, r *api.Route) error {
	l := s.links[r.Interface]
	if r.Interface != "" && l.index == 0 {
		return unix.ENODEV
	}
	return s.c.do(kind, flags, routeBody(l, r))
}
