package network

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// filterPriority tells our filters from those of others ("vc").
const filterPriority = 0x7663

// ingressHandle is that of every ingress qdisc, tc-style "ffff:".
var ingressHandle = netlink.MakeHandle(0xffff, 0)

// connectTap makes a tap and has traffic control hand packets from the interface
// to it and back. On an error nothing is left.
func connectTap(h *netlink.Handle, i *netInterface, queues int) (*tap, error) {
	if err := clearStale(h, i.index); err != nil {
		return nil, err
	}
	t, err := openTap(h, queues)
	if err != nil {
		return nil, err
	}
	if err = t.bringUp(h, int(i.config.Mtu)); err == nil {
		err = redirect(h, t.index, i.index)
	}
	if err == nil {
		// This takes the interface's packets away from the namespace, so it
		// comes last.
		err = redirect(h, i.index, t.index)
	}
	if err != nil {
		t.closeFiles() // and its traffic control goes with it
		return nil, errors.Join(err, removeRedirect(h, i.index))
	}
	return t, nil
}

// redirect hands what comes in on one interface out on another one.
func redirect(h *netlink.Handle, from, to int) error {
	if err := failpoint.Here(failpoint.MonitorQdisc); err != nil {
		return err
	}
	if err := h.QdiscAdd(ingress(from)); err != nil {
		return fmt.Errorf("add an ingress qdisc: %w", err)
	}
	if err := failpoint.Here(failpoint.MonitorFilter); err != nil {
		return err
	}
	err := h.FilterAdd(&netlink.U32{ // without a selector it matches everything
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from, Parent: ingressHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to)},
	})
	if err != nil {
		return fmt.Errorf("add a redirecting filter (needs the kernel's cls_u32 and act_mirred): %w", err)
	}
	return nil
}

func ingress(index int) *netlink.Ingress {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: ingressHandle, Parent: netlink.HANDLE_INGRESS,
	}}
}

// clearStale removes the traffic control that a monitor which was killed has
// left on an interface. That of somebody else, or of one that lives, is ErrBusy.
func clearStale(h *netlink.Handle, index int) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return h.QdiscList(link) })
	if err != nil {
		return fmt.Errorf("list qdiscs: %w", err)
	}
	has := false
	for _, q := range qdiscs {
		switch q.Type() {
		case "ingress":
			has = true
		case "clsact":
			return fmt.Errorf("%w: it has a clsact qdisc", ErrBusy)
		}
	}
	if !has {
		return nil
	}
	filters, err := dump(func() ([]netlink.Filter, error) { return h.FilterList(link, ingressHandle) })
	if err != nil {
		return fmt.Errorf("list filters: %w", err)
	}
	for _, f := range filters {
		target, ours := redirectsTo(f)
		if !ours {
			return fmt.Errorf("%w: it has a %s filter", ErrBusy, f.Type())
		}
		if _, err := h.LinkByIndex(target); target != 0 && err == nil {
			return fmt.Errorf("%w: it is connected to another virtual machine", ErrBusy)
		}
	}
	if err := failpoint.Here(failpoint.MonitorClearStale); err != nil {
		return err
	}
	return removeRedirect(h, index)
}

// redirectsTo gives the target of one of our filters: 0 when that has gone.
func redirectsTo(f netlink.Filter) (index int, ours bool) {
	u32, ok := f.(*netlink.U32)
	if !ok || u32.Priority != filterPriority || len(u32.Actions) != 1 {
		return 0, false
	}
	mirred, ok := u32.Actions[0].(*netlink.MirredAction)
	if !ok {
		return 0, false
	}
	return mirred.Ifindex, true
}

// removeRedirect gives an interface back to its namespace.
func removeRedirect(h *netlink.Handle, index int) error {
	err := h.QdiscDel(ingress(index))
	// EINVAL: there is no qdisc on the interface.
	if err != nil && !isGone(err) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("remove the ingress qdisc: %w", err)
	}
	return nil
}
