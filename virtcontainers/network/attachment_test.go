package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
)

const (
	mac0 = "02:00:00:00:00:10"
	mac1 = "02:00:00:00:00:11"
)

// ownerEnv makes this program the monitor that tests kill; its value is the mode.
const ownerEnv = "VC_TEST_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		os.Exit(own())
	}
	os.Exit(m.Run())
}

// pod makes a namespace with eth0 and eth1, whose peers are in another one.
func pod(t *testing.T) (ns, outside *os.File) {
	t.Helper()
	ns, outside = newNamespace(t), newNamespace(t)
	addVeth(t, ns, outside, "eth0", mac0)
	addVeth(t, ns, outside, "eth1", mac1)
	addAddress(t, ns, "eth0", "10.9.0.2/24")
	addAddress(t, ns, "eth0", "fd00:9::2/64")
	addAddress(t, ns, "eth1", "10.8.0.2/32")
	return ns, outside
}

func attach(t *testing.T, ns *os.File, queues int) *Attachment {
	t.Helper()
	return attachWith(t, ns, Options{Mode: ModeTC, Queues: queues})
}

func attachWith(t *testing.T, ns *os.File, opts Options) *Attachment {
	t.Helper()
	a, err := Attach(t.Context(), ns, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return a
}

func TestAttachAndClose(t *testing.T) {
	for _, queues := range []int{1, 2} {
		t.Run(fmt.Sprint(queues), func(t *testing.T) {
			ns, _ := pod(t)
			a := attach(t, ns, queues)
			names := taps(t, ns)
			if len(names) != 2 {
				t.Fatalf("taps %q", names)
			}
			for i, eth := range []string{"eth0", "eth1"} {
				tap := a.endpoints[i].tap
				if len(tap.queues) != queues {
					t.Errorf("%d queues", len(tap.queues))
				}
				if got := target(t, ns, eth); got != tap.name {
					t.Errorf("%s goes to %q", eth, got)
				}
				if got := target(t, ns, tap.name); got != eth {
					t.Errorf("%s goes to %q", tap.name, got)
				}
			}
			checkTaps(t, ns, names)
			for range 2 {
				if err := a.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if left := taps(t, ns); len(left) > 0 {
				t.Errorf("taps are left: %q", left)
			}
			if hasIngress(t, ns, "eth0") || hasIngress(t, ns, "eth1") {
				t.Error("a qdisc is left")
			}
			if err := a.Sync(t.Context(), &fakeVM{}, &fakeGuest{}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("sync after the end: %v", err)
			}
		})
	}
}

// checkTaps: they are up, of the interfaces' MTU, and have no address.
func checkTaps(t *testing.T, ns *os.File, names []string) {
	t.Helper()
	in(t, ns, func(h *netlink.Handle) error {
		for _, name := range names {
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if l := link.Attrs(); l.MTU != 1400 || l.Flags&net.FlagUp == 0 {
				t.Errorf("%s: MTU %d, %v", name, l.MTU, l.Flags)
			}
			if addrs, err := h.AddrList(link, netlink.FAMILY_ALL); err != nil || len(addrs) > 0 {
				t.Errorf("%s has addresses %v (%v)", name, addrs, err)
			}
		}
		return nil
	})
}

// Frames go both ways between the tap and the peer of the interface: those to the
// guest's address, to all, and to a group that only the guest knows to be in.
func TestFramesPass(t *testing.T) {
	for _, mode := range []Mode{ModeTC, ModeMacvtap} {
		t.Run(string(mode), func(t *testing.T) {
			for _, to := range []string{mac1, "ff:ff:ff:ff:ff:ff", "33:33:ff:12:34:56"} {
				framesPass(t, mode, to)
			}
		})
	}
}

func framesPass(t *testing.T, mode Mode, to string) {
	ns, outside := pod(t)
	a := attachWith(t, ns, Options{Mode: mode, Queues: 1})
	tap := a.endpoints[1].tap.queues[0]
	fd := -1
	in(t, outside, func(h *netlink.Handle) (err error) {
		link, err := h.LinkByName("eth1")
		if err != nil {
			return err
		}
		proto := uint16(testEtherType>>8 | testEtherType&0xff<<8) // in network order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(proto)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: proto, Ifindex: link.Attrs().Index})
	})
	peer := os.NewFile(uintptr(fd), "peer")
	defer peer.Close()
	limit := unix.Timeval{Sec: 5}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit); err != nil {
		t.Fatal(err)
	}

	const vnetHeader = 10 // struct virtio_net_hdr of linux/virtio_net.h
	frame := frameWith("ff:ff:ff:ff:ff:ff", "from the guest")
	if _, err := tap.Write(append(make([]byte, vnetHeader), frame...)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 2000)
	n, err := peer.Read(buf)
	if err != nil || !slices.Equal(buf[:n], frame) {
		t.Fatalf("outside: %q, %v", buf[:n], err)
	}

	frame = frameWith(to, "to the guest")
	if _, err := peer.Write(frame); err != nil {
		t.Fatal(err)
	}
	got := make(chan []byte, 1)
	go func() { // ends with the tap
		for {
			n, err := tap.Read(buf)
			if err != nil || slices.Equal(buf[vnetHeader:n], frame) {
				got <- frame
				return
			}
		}
	}()
	select {
	case <-got:
	case <-time.After(5 * time.Second):
		t.Fatalf("nothing comes in on the tap, to %s", to)
	}
}

const testEtherType = 0x88b5 // for experiments (IEEE 802)

func frameWith(to, text string) []byte {
	mac, _ := net.ParseMAC(to)
	frame := append(slices.Clip([]byte(mac)), 2, 0, 0, 0, 0, 9, testEtherType>>8, testEtherType&0xff)
	return append(frame, fmt.Sprintf("%-60s", text)...)
}

func TestNothingToAttach(t *testing.T) {
	ns := newNamespace(t)
	addVeth(t, ns, newNamespace(t), "down0", mac0)
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName("down0")
		if err != nil {
			return err
		}
		return h.LinkSetDown(link)
	})
	a := attach(t, ns, 1)
	guest := &fakeGuest{}
	if err := a.Sync(t.Context(), &fakeVM{}, guest); err != nil || guest.got != nil || len(taps(t, ns)) > 0 {
		t.Errorf("%v, guest was told %v", err, guest.got)
	}
}

// A second VM is refused, and so is traffic control of others; what was made for
// other interfaces goes.
func TestBusy(t *testing.T) {
	ns, _ := pod(t)
	attach(t, ns, 1)
	if _, err := Attach(t.Context(), ns, Options{Mode: ModeTC, Queues: 1}); !errors.Is(err, ErrBusy) {
		t.Errorf("second attachment: %v", err)
	}
	if len(taps(t, ns)) != 2 || target(t, ns, "eth0") == "" {
		t.Error("the second attachment harmed the first")
	}

	ns, _ = pod(t)
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth1")
		if err != nil {
			return err
		}
		return h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: link.Attrs().Index, Handle: ingressHandle, Parent: netlink.HANDLE_CLSACT,
		}})
	})
	if _, err := Attach(t.Context(), ns, Options{Mode: ModeTC, Queues: 1}); !errors.Is(err, ErrBusy) {
		t.Errorf("clsact: %v", err)
	}
	if left := taps(t, ns); len(left) > 0 || hasIngress(t, ns, "eth0") {
		t.Errorf("left behind: %q", left)
	}
}

func TestUnsupported(t *testing.T) {
	t.Run("no Ethernet", func(t *testing.T) {
		ns, _ := pod(t)
		in(t, ns, func(h *netlink.Handle) error {
			tun := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}
			if err := h.LinkAdd(tun); err != nil {
				return err
			}
			return h.LinkSetUp(tun)
		})
		if _, err := Attach(t.Context(), ns, Options{Mode: ModeTC, Queues: 1}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("several gateways", func(t *testing.T) {
		ns, _ := pod(t)
		addRoute(t, ns, "eth0", "10.7.0.0/16", "", func(r *netlink.Route) {
			for _, gw := range []string{"10.9.0.1", "10.9.0.3"} {
				r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{LinkIndex: r.LinkIndex, Gw: net.ParseIP(gw)})
			}
			r.LinkIndex, r.Scope = 0, netlink.SCOPE_UNIVERSE
		})
		if _, err := Attach(t.Context(), ns, Options{Mode: ModeTC, Queues: 1}); !errors.Is(err, ErrUnsupported) {
			t.Errorf("got %v", err)
		}
	})
}

// fakeVM is a machine that takes everything.
type fakeVM struct {
	nics  []hypervisor.NIC
	fail  error
	alive int
}

func (v *fakeVM) PlugNIC(_ context.Context, nic hypervisor.NIC) (hypervisor.Device, error) {
	if v.fail != nil {
		return nil, v.fail
	}
	kept := nic
	kept.Taps = nil
	for _, f := range nic.Taps {
		own, err := duplicate(f)
		if err != nil {
			return nil, err
		}
		kept.Taps = append(kept.Taps, own)
	}
	v.nics = append(v.nics, kept)
	v.alive++
	return fakeDevice{v, kept}, nil
}

// end closes what the machine has.
func (v *fakeVM) end() {
	for _, n := range v.nics {
		closeAll(n.Taps)
	}
}

type fakeDevice struct {
	vm  *fakeVM
	nic hypervisor.NIC
}

func (d fakeDevice) Unplug(context.Context) error {
	closeAll(d.nic.Taps)
	d.vm.alive--
	return nil
}

type fakeGuest struct {
	got  []*api.ConfigureNetworkRequest
	fail error
}

func (g *fakeGuest) ConfigureNetwork(_ context.Context, req *api.ConfigureNetworkRequest) (*api.Empty, error) {
	g.got = append(g.got, req)
	return &api.Empty{}, g.fail
}

func TestSync(t *testing.T) {
	ns, outside := pod(t)
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth1")
		if err != nil {
			return err
		}
		return h.LinkDel(link)
	})
	a := attach(t, ns, 1)
	vm, guest := &fakeVM{fail: errors.New("broken")}, &fakeGuest{}
	defer vm.end()
	if err := a.Sync(t.Context(), vm, guest); !errors.Is(err, vm.fail) {
		t.Fatalf("got %v", err)
	}
	vm.fail, guest.fail = nil, errors.New("guest")
	if err := a.Sync(t.Context(), vm, guest); !errors.Is(err, guest.fail) {
		t.Fatalf("got %v", err)
	}
	guest.fail = nil
	for range 2 {
		if err := a.Sync(t.Context(), vm, guest); err != nil {
			t.Fatal(err)
		}
	}
	if len(vm.nics) != 1 || vm.nics[0].MAC.String() != mac0 || len(guest.got) != 2 {
		t.Fatalf("plugged %v, told %d times", vm.nics, len(guest.got))
	}

	// An interface with the address of another one, before start.
	addVeth(t, ns, outside, "eth2", mac0)
	if err := a.Sync(t.Context(), vm, guest); err != nil {
		t.Fatal(err)
	}
	last := guest.got[len(guest.got)-1]
	if len(vm.nics) != 2 || len(guest.got) != 3 || len(last.Interfaces) != 2 {
		t.Fatalf("plugged %v, told %d times: %v", vm.nics, len(guest.got), last)
	}
	eth2 := last.Interfaces[1]
	if net.HardwareAddr(eth2.Mac).String() != mac0 || vm.nics[1].MAC.String() == mac0 || vm.nics[1].MAC.String() != net.HardwareAddr(eth2.DeviceMac).String() {
		t.Errorf("addresses: device %v, told %v", vm.nics[1].MAC, eth2)
	}

	// The caller takes one away.
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth0")
		if err != nil {
			return err
		}
		return h.LinkDel(link)
	})
	if err := a.Sync(t.Context(), vm, guest); err != nil {
		t.Fatal(err)
	}
	last = guest.got[len(guest.got)-1]
	if vm.alive != 1 || len(last.Interfaces) != 1 || last.Interfaces[0].Name != "eth2" || len(taps(t, ns)) != 1 {
		t.Errorf("%d plugged, told %v, taps %q", vm.alive, last, taps(t, ns))
	}

	// The VM ends: its taps go with it.
	vm.end()
	if left := taps(t, ns); len(left) > 0 {
		t.Errorf("taps are left: %q", left)
	}
}

// What the guest is told is what is in the namespace.
func TestRequest(t *testing.T) {
	ns, _ := pod(t)
	addRoute(t, ns, "eth0", "0.0.0.0/0", "10.9.0.1", func(r *netlink.Route) { r.Priority = 50; r.MTU = 1300 })
	addRoute(t, ns, "eth1", "169.254.1.1/32", "")
	addRoute(t, ns, "eth1", "10.6.0.0/16", "169.254.1.1", func(r *netlink.Route) { r.Src = net.ParseIP("10.8.0.2") })
	addRoute(t, ns, "eth0", "::/0", "fd00:9::1")
	addRoute(t, ns, "eth0", "10.5.0.0/16", "", func(r *netlink.Route) {
		r.Type, r.LinkIndex, r.Scope = unix.RTN_UNREACHABLE, 0, netlink.SCOPE_UNIVERSE
	})
	hw, _ := net.ParseMAC("02:00:00:00:00:99")
	in(t, ns, func(h *netlink.Handle) error {
		link, err := h.LinkByName("eth1")
		if err != nil {
			return err
		}
		return h.NeighAdd(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP("169.254.1.1"), HardwareAddr: hw,
		})
	})
	a := attach(t, ns, 1)

	ip := func(s string) []byte {
		if v4 := net.ParseIP(s).To4(); v4 != nil {
			return v4
		}
		return net.ParseIP(s)
	}
	eth0, _ := net.ParseMAC(mac0)
	eth1, _ := net.ParseMAC(mac1)
	const boot, kernel = unix.RTPROT_BOOT, unix.RTPROT_KERNEL
	want := &api.ConfigureNetworkRequest{
		Interfaces: []*api.Interface{{
			Name: "eth0", Mac: eth0, DeviceMac: eth0, Mtu: 1400, AcceptRa: true,
			Addresses: []*api.Address{
				{Ip: ip("10.9.0.2"), Prefix: 24, Broadcast: ip("10.9.0.255")},
				{Ip: ip("fd00:9::2"), Prefix: 64},
			},
		}, {
			Name: "eth1", Mac: eth1, DeviceMac: eth1, Mtu: 1400, AcceptRa: true,
			Addresses:  []*api.Address{{Ip: ip("10.8.0.2"), Prefix: 32}},
			Neighbours: []*api.Neighbour{{Ip: ip("169.254.1.1"), Mac: hw}},
		}},
		Routes: []*api.Route{
			{Destination: ip("10.5.0.0"), Prefix: 16, Type: unix.RTN_UNREACHABLE, Protocol: boot},
			{Interface: "eth0", Destination: ip("10.9.0.0"), Prefix: 24, Source: ip("10.9.0.2"), Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK, Protocol: kernel},
			{Interface: "eth1", Destination: ip("169.254.1.1"), Prefix: 32, Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_LINK, Protocol: boot},
			{Interface: "eth0", Destination: ip("fd00:9::"), Prefix: 64, Type: unix.RTN_UNICAST, Protocol: kernel, Metric: 256},
			{Interface: "eth1", Destination: ip("10.6.0.0"), Prefix: 16, Gateway: ip("169.254.1.1"), Source: ip("10.8.0.2"), Type: unix.RTN_UNICAST, Protocol: boot},
			{Interface: "eth0", Destination: ip("0.0.0.0"), Gateway: ip("10.9.0.1"), Type: unix.RTN_UNICAST, Protocol: boot, Metric: 50, Mtu: 1300},
			{Interface: "eth0", Destination: ip("::"), Gateway: ip("fd00:9::1"), Type: unix.RTN_UNICAST, Protocol: boot, Metric: 1024},
		},
	}
	if diff := cmp.Diff(want, a.request(), protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// A monitor that is killed leaves nothing that the next one minds.
func TestOwnerKilled(t *testing.T) {
	ns, _ := pod(t)
	kill := startOwner(t, ns, ModeTC)
	if during := taps(t, ns); len(during) != 2 {
		t.Fatalf("taps %q", during)
	}
	kill()
	if left := taps(t, ns); len(left) > 0 {
		t.Errorf("taps are left: %q", left)
	}
	if !hasIngress(t, ns, "eth0") || target(t, ns, "eth0") != "" {
		t.Error("expected a qdisc whose filter leads nowhere")
	}
	a := attach(t, ns, 1)
	if got := target(t, ns, "eth0"); got != a.endpoints[0].tap.name {
		t.Errorf("eth0 goes to %q", got)
	}
}

// startOwner has another process attach the namespace.
func startOwner(t *testing.T, ns *os.File, mode Mode) (kill func()) {
	t.Helper()
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerEnv+"="+string(mode))
	owner.Stderr = os.Stderr
	owner.ExtraFiles = []*os.File{ns}
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		owner.Process.Kill()
		owner.Wait()
	})
	t.Cleanup(kill)
	if _, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	return kill
}

// own attaches the namespace that it is given and waits to be killed.
func own() int {
	opts := Options{Mode: Mode(os.Getenv(ownerEnv)), Queues: 1}
	if _, err := Attach(context.Background(), os.NewFile(3, "netns"), opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("attached")
	unix.Pause()
	return 0
}
