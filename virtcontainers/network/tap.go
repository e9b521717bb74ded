package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// tapPrefix begins the names of our taps; the kernel adds a number.
const tapPrefix = "vctap"

// tap is a tap or a macvtap. It lives as long as its queues are open somewhere.
type tap struct {
	name   string
	index  int
	queues []*os.File
	vhost  []*os.File // one for each queue, or none
	home   *os.File   // a macvtap's own network namespace; nil for a tap

	removed bool
}

// openTap makes a tap in the namespace of the calling thread.
func openTap(h *netlink.Handle, queues int) (*tap, error) {
	t := &tap{name: tapPrefix + "%d"}
	for range queues {
		if err := t.addQueue(queues > 1); err != nil {
			t.closeFiles()
			return nil, fmt.Errorf("make a tap: %w", err)
		}
	}
	link, err := h.LinkByName(t.name)
	if err != nil {
		t.closeFiles()
		return nil, fmt.Errorf("find tap %s: %w", t.name, err)
	}
	t.index = link.Attrs().Index
	return t, nil
}

// addQueue makes the device and then further queues of it (Linux:
// Documentation/networking/tuntap.rst).
func (t *tap) addQueue(multi bool) error {
	if err := failpoint.Here(failpoint.MonitorOpenTap); err != nil {
		return err
	}
	// Not os.OpenFile, which would have the runtime poll it.
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: "/dev/net/tun", Err: err}
	}
	t.queues = append(t.queues, os.NewFile(uintptr(fd), "/dev/net/tun"))
	t.name, err = setFlags(t.queues[len(t.queues)-1], t.name, multi)
	return err
}

// setFlags makes a file a queue that takes whole frames behind a header for
// segmentation and checksums, as virtio has it.
func setFlags(f *os.File, name string, multi bool) (given string, err error) {
	req, err := unix.NewIfreq(name)
	if err != nil {
		return "", err
	}
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if multi {
		flags |= unix.IFF_MULTI_QUEUE
	}
	req.SetUint16(flags)
	if err := unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req); err != nil {
		return "", fmt.Errorf("TUNSETIFF: %w", err)
	}
	return req.Name(), nil
}

// bringUp makes the tap carry packets of up to mtu bytes. It gets no address of
// its own, with which it would speak to the guest.
func (t *tap) bringUp(h *netlink.Handle, mtu int) error {
	if err := failpoint.Here(failpoint.MonitorTapUp); err != nil {
		return err
	}
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: t.index, Name: t.name}}
	if err := noAutoAddress(t.index); err != nil {
		return fmt.Errorf("tap %s: turn off generated addresses: %w", t.name, err)
	}
	if err := h.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("tap %s: set MTU %d: %w", t.name, mtu, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("tap %s: bring up: %w", t.name, err)
	}
	return nil
}

// addrGenNone is IN6_ADDR_GEN_MODE_NONE of linux/if_link.h.
const addrGenNone = 1

// noAutoAddress works on the calling thread's namespace. A kernel without IPv6
// generates no addresses.
func noAutoAddress(index int) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	info := nl.NewIfInfomsg(unix.AF_UNSPEC)
	info.Index = int32(index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenNone})
	req.AddData(info)
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// remove closes our files and deletes the device, should somebody else have its
// queues still. h is in the namespace of the interface that it was made for. A
// second call does nothing.
func (t *tap) remove(h *netlink.Handle) error {
	t.closeFiles()
	if t.removed {
		return nil
	}
	var err error
	if t.home == nil {
		err = t.deleteLink(h)
	} else {
		err = inNamespace(t.home, t.deleteLink)
	}
	if err != nil {
		return err
	}
	t.removed = true
	if t.home != nil {
		return t.home.Close()
	}
	return nil
}

func (t *tap) deleteLink(h *netlink.Handle) error {
	link, err := h.LinkByName(t.name)
	if isGone(err) || err == nil && link.Attrs().Index != t.index {
		return nil
	}
	if err == nil {
		err = h.LinkDel(link)
	}
	if err != nil && !isGone(err) {
		return fmt.Errorf("remove tap %s: %w", t.name, err)
	}
	return nil
}

// isGone tells the answers to a request about what is not there.
func isGone(err error) bool {
	var none netlink.LinkNotFoundError
	return errors.As(err, &none) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT)
}

// closeFiles closes our files. A second call does nothing.
func (t *tap) closeFiles() {
	closeAll(t.queues)
	closeAll(t.vhost)
	t.queues, t.vhost = nil, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
