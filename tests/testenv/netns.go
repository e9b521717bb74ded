package testenv

import (
	"fmt"
	"os"
	"runtime"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bridge is a bridge in the suite's network namespace, which stands for the host.
type Bridge struct {
	e    *Env
	link *netlink.Bridge
	pods int
}

// NewBridge makes a bridge that has an address, such as "10.77.0.1/24". It goes when the
// test ends.
func (e *Env) NewBridge(name, address string) *Bridge {
	e.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	b := &Bridge{e: e, link: &netlink.Bridge{LinkAttrs: attrs}}
	if err := netlink.LinkAdd(b.link); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if err := netlink.LinkDel(b.link); err != nil {
			e.Error(err)
		}
	})
	if err := addressed(b.link, address); err != nil {
		e.Fatal(err)
	}
	return b
}

// Pod makes a network namespace with an interface eth0 on the bridge, which has the
// address, and gives the namespace's path. It goes when the test ends.
func (b *Bridge) Pod(address string) string {
	b.e.Helper()
	b.pods++
	path := b.e.Write(fmt.Sprintf("%s-netns%d", b.link.Name, b.pods), "")
	peer := fmt.Sprintf("%s-p%d", b.link.Name, b.pods)
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		done <- newPod(path, peer, address)
	}()
	err := <-done
	b.e.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			b.e.Error(err)
		}
	})
	if err == nil {
		err = b.join(peer)
	}
	if err != nil {
		b.e.Fatal(err)
	}
	return path
}

// newPod makes the namespace on the calling thread, whose process stays where it is.
func newPod(path, peer, address string) error {
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerNamespace: netlink.NsFd(int(host.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return err
	}
	return addressed(veth, address)
}

func (b *Bridge) join(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if err := netlink.LinkSetMaster(link, b.link); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// addressed gives an interface an address and brings it up.
func addressed(link netlink.Link, address string) error {
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// NetworkNamespace puts the container into the network namespace at a path.
func NetworkNamespace(path string) Option {
	return func(s *specs.Spec) {
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = path
			}
		}
	}
}
