package network

import (
	"errors"
	"net"
	"os"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
)

var macvtapOptions = Options{Mode: ModeMacvtap, Queues: 2}

// interfaces lists what is in a namespace, with flags and MTU.
func interfaces(t *testing.T, ns *os.File) map[string]netlink.LinkAttrs {
	t.Helper()
	found := make(map[string]netlink.LinkAttrs)
	in(t, ns, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		for _, l := range links {
			found[l.Attrs().Name] = *l.Attrs()
		}
		return err
	})
	return found
}

// The macvtap has the interface's address and MTU, is nowhere to be seen in the
// pod's namespace, and goes with Close.
func TestMacvtap(t *testing.T) {
	ns, _ := pod(t)
	before := interfaces(t, ns)
	a := attachWith(t, ns, macvtapOptions)
	if during := interfaces(t, ns); len(during) != len(before) {
		t.Errorf("interfaces in the namespace: %v", during)
	}
	for i, eth := range []string{"eth0", "eth1"} {
		tap := a.endpoints[i].tap
		if len(tap.queues) != 2 {
			t.Errorf("%d queues", len(tap.queues))
		}
		got, want := interfaces(t, tap.home)[tap.name], before[eth]
		if !slices.Equal(got.HardwareAddr, want.HardwareAddr) || got.MTU != want.MTU ||
			got.Flags&net.FlagUp == 0 || got.Allmulti == 0 {
			t.Errorf("the macvtap on %s: %+v, want the address and MTU of %+v", eth, got, want)
		}
		if now := interfaces(t, ns)[eth]; !slices.Equal(now.HardwareAddr, want.HardwareAddr) {
			t.Errorf("%s has another address now: %v", eth, now.HardwareAddr)
		}
		checkNoAddress(t, tap.home, tap.name)
	}
	if _, err := Attach(t.Context(), ns, macvtapOptions); !errors.Is(err, ErrBusy) {
		t.Errorf("a second attachment: %v", err)
	}
	for range 2 {
		if err := a.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := interfaces(t, ns)["eth0"]; after.Promisc != 0 {
		t.Error("eth0 still is promiscuous: it carries a macvtap")
	}
	attachWith(t, ns, macvtapOptions)
}

func checkNoAddress(t *testing.T, ns *os.File, name string) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if addrs, err := h.AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) > 0 {
			t.Errorf("%s has addresses %v (%v)", name, addrs, err)
		}
		return nil
	})
}

// A killed monitor's macvtap goes by itself, also where it was the last to have
// the pod's namespace, and the next one waits for that. So does what a killed
// monitor of the other mode has left.
func TestMacvtapOwnerKilled(t *testing.T) {
	for _, mode := range []Mode{ModeMacvtap, ModeTC} {
		ns, _ := pod(t)
		kill := startOwner(t, ns, mode)
		if _, err := Attach(t.Context(), ns, macvtapOptions); !errors.Is(err, ErrBusy) {
			t.Errorf("%s: a second attachment: %v", mode, err)
		}
		kill()
		a := attachWith(t, ns, macvtapOptions)
		if err := a.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// What is left of a machine is gone without anybody's doing: the files are what
// holds the macvtap.
func TestMacvtapGoesWithItsFiles(t *testing.T) {
	ns, _ := pod(t)
	a := attachWith(t, ns, macvtapOptions)
	for _, e := range a.endpoints {
		e.tap.closeFiles()
		if err := e.tap.home.Close(); err != nil {
			t.Fatal(err)
		}
		e.tap.removed = true
	}
	attachWith(t, ns, macvtapOptions)
}

func TestMacvtapRefuses(t *testing.T) {
	t.Run("macvlan", func(t *testing.T) {
		ns, host := newNamespace(t), newNamespace(t)
		addVeth(t, host, newNamespace(t), "below0", mac0)
		in(t, host, func(h *netlink.Handle) error {
			below, err := h.LinkByName("below0")
			if err != nil {
				return err
			}
			return h.LinkAdd(&netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{
				Name: "net1", ParentIndex: below.Attrs().Index, Namespace: netlink.NsFd(int(ns.Fd())),
			}})
		})
		in(t, ns, func(h *netlink.Handle) error {
			link, err := h.LinkByName("net1")
			if err != nil {
				return err
			}
			return h.LinkSetUp(link)
		})
		if _, err := Attach(t.Context(), ns, macvtapOptions); !errors.Is(err, ErrUnsupported) {
			t.Errorf("got %v", err)
		}
		attach(t, ns, 1)
	})
	t.Run("no such mode", func(t *testing.T) {
		if _, err := Attach(t.Context(), newNamespace(t), Options{Mode: "bridge", Queues: 1}); err == nil {
			t.Error("accepted")
		}
	})
}

// A device that is none is no reason to fail.
func TestVhostCheck(t *testing.T) {
	if err := checkVhost("/nonexistent/vhost-net"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no device: %v", err)
	}
	if err := checkVhost(os.DevNull); err == nil {
		t.Error("/dev/null is taken for vhost-net")
	}
}
