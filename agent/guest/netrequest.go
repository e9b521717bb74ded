package guest

import (
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// checkNetwork refuses what the kernel would read as something else.
func checkNetwork(req *api.ConfigureNetworkRequest) error {
	names, devices := make(map[string]bool), make(map[string]bool)
	for _, i := range req.Interfaces {
		if !isName(i.Name) || names[i.Name] || devices[string(i.DeviceMac)] {
			return fmt.Errorf("interface %.40q: not a name, or the name or device of another one: %w", i.Name, unix.EINVAL)
		}
		names[i.Name], devices[string(i.DeviceMac)] = true, true
		if err := checkInterface(i); err != nil {
			return fmt.Errorf("interface %s: %w", i.Name, err)
		}
	}
	for _, r := range req.Routes {
		if r.Interface != "" && !names[r.Interface] {
			return fmt.Errorf("%s: the interface is not in the request: %w", routeText(r), unix.EINVAL)
		}
		if !isIP(r.Destination, r.Prefix) || len(r.Gateway) > 0 && !isIP(r.Gateway, 0) || len(r.Source) > 0 && !isIP(r.Source, 0) ||
			max(r.Type, r.Scope, r.Protocol, r.Tos) > math.MaxUint8 {
			return fmt.Errorf("%s: %w", routeText(r), unix.EINVAL)
		}
	}
	return nil
}

func checkInterface(i *api.Interface) error {
	if len(i.Mac) != macLen || len(i.DeviceMac) != macLen {
		return fmt.Errorf("hardware addresses of %d and %d bytes: %w", len(i.Mac), len(i.DeviceMac), unix.EINVAL)
	}
	for _, a := range i.Addresses {
		if !isIP(a.Ip, a.Prefix) || len(a.Peer) > 0 && len(a.Peer) != len(a.Ip) || a.Scope > math.MaxUint8 {
			return fmt.Errorf("address %x/%d: %w", a.Ip, a.Prefix, unix.EINVAL)
		}
	}
	for _, nb := range i.Neighbours {
		if !isIP(nb.Ip, 0) || len(nb.Mac) != macLen {
			return fmt.Errorf("neighbour %x: %w", nb.Ip, unix.EINVAL)
		}
	}
	return nil
}

// isName is the kernel's dev_valid_name, without the one name that is taken.
func isName(name string) bool {
	return name != "" && len(name) < unix.IFNAMSIZ && name != "." && name != ".." && name != "lo" &&
		!strings.ContainsAny(name, "/: \t\n\v\f\r\x00")
}

const macLen = 6

func isIP(ip []byte, prefix uint32) bool {
	return (len(ip) == net.IPv4len || len(ip) == net.IPv6len) && prefix <= uint32(8*len(ip))
}

func family(ip []byte) uint8 {
	if len(ip) == net.IPv4len {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// addressBody is the request for an address without the route that the kernel
// would add for its prefix: the host names all routes.
func addressBody(l link, a *api.Address) []byte {
	b := ifaddrmsg(family(a.Ip), uint8(a.Prefix), uint8(a.Scope), l.index)
	b = attr(b, unix.IFA_LOCAL, a.Ip)
	if len(a.Peer) > 0 {
		b = attr(b, unix.IFA_ADDRESS, a.Peer)
	} else {
		b = attr(b, unix.IFA_ADDRESS, a.Ip)
	}
	if len(a.Broadcast) > 0 {
		b = attr(b, unix.IFA_BROADCAST, a.Broadcast)
	}
	// The host has looked for duplicates already.
	b = attr32(b, unix.IFA_FLAGS, unix.IFA_F_NODAD|unix.IFA_F_NOPREFIXROUTE)
	if a.Valid != 0 || a.Preferred != 0 {
		// struct ifa_cacheinfo: preferred, valid, and two time stamps
		info := binary.NativeEndian.AppendUint32(nil, a.Preferred)
		info = binary.NativeEndian.AppendUint32(info, a.Valid)
		b = attr(b, unix.IFA_CACHEINFO, append(info, make([]byte, 8)...))
	}
	return b
}

func neighbourBody(l link, nb *api.Neighbour) []byte {
	b := attr(ndmsg(family(nb.Ip), l.index, unix.NUD_PERMANENT), unix.NDA_DST, nb.Ip)
	return attr(b, unix.NDA_LLADDR, nb.Mac)
}

func routeBody(l link, r *api.Route) []byte {
	var flags uint32
	if r.Onlink {
		flags = unix.RTNH_F_ONLINK
	}
	b := rtmsg(family(r.Destination), uint8(r.Prefix), uint8(r.Tos), uint8(r.Protocol), uint8(r.Scope), uint8(r.Type), flags)
	if r.Prefix > 0 {
		b = attr(b, unix.RTA_DST, r.Destination)
	}
	if l.index != 0 {
		b = attr32(b, unix.RTA_OIF, uint32(l.index))
	}
	switch {
	case len(r.Gateway) == len(r.Destination):
		b = attr(b, unix.RTA_GATEWAY, r.Gateway)
	case len(r.Gateway) > 0: // struct rtvia: family, address
		via := binary.NativeEndian.AppendUint16(nil, uint16(family(r.Gateway)))
		b = attr(b, unix.RTA_VIA, append(via, r.Gateway...))
	}
	if len(r.Source) > 0 {
		b = attr(b, unix.RTA_PREFSRC, r.Source)
	}
	if r.Metric != 0 {
		b = attr32(b, unix.RTA_PRIORITY, r.Metric)
	}
	var metrics []byte
	if r.Mtu != 0 {
		metrics = attr32(metrics, unix.RTAX_MTU, r.Mtu)
	}
	if r.Advmss != 0 {
		metrics = attr32(metrics, unix.RTAX_ADVMSS, r.Advmss)
	}
	if metrics != nil {
		b = attr(b, unix.RTA_METRICS, metrics)
	}
	return b
}

func routeText(r *api.Route) string {
	text := fmt.Sprintf("route to %s/%d", net.IP(r.Destination), r.Prefix)
	if len(r.Gateway) > 0 {
		text += " via " + net.IP(r.Gateway).String()
	}
	if r.Interface != "" {
		text += fmt.Sprintf(" on %.20s", r.Interface)
	}
	return text
}
