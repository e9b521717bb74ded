package vsock

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// vhostNet: the packets of a container are carried by the host's kernel, in both
// ways of connecting its interface, for each of two queues.
func vhostNet(t *testing.T) {
	for i, mode := range []string{"tc", "macvtap"} {
		t.Run(mode, func(t *testing.T) { carried(t, mode, fmt.Sprintf("10.9.%d", i)) })
	}
}

// carriedBytes go from the container to the host.
const carriedBytes = 512 << 10

func carried(t *testing.T, mode, subnet string) {
	c := configured(t, "serial", "off", "[network]", fmt.Sprintf("mode = %q", mode))
	c.setCPUs(2)
	netns := c.wire(subnet)
	l, err := net.Listen("tcp", subnet+".1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	script := fmt.Sprintf("{ cat /proc/interrupts; dd if=/dev/zero bs=64k count=%d; } | nc %s.1 5000; sleep 1000000", carriedBytes>>16, subnet)
	c.detachedFrom(c.bundleIn(netns, "sh", "-c", script), mode)

	l.(*net.TCPListener).SetDeadline(time.Now().Add(20 * time.Minute))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	came, err := io.ReadAll(conn)
	t.Logf("%s: %d bytes in %.1f s", mode, len(came), time.Since(begun).Seconds())
	interrupts, zeros, _ := bytes.Cut(came, make([]byte, 1))
	if len(zeros)+1 != carriedBytes || err != nil {
		t.Errorf("%d of %d bytes, %v", len(zeros)+1, carriedBytes, err)
	}
	for _, queue := range []string{"input.0", "input.1", "output.0", "output.1"} {
		if !bytes.Contains(interrupts, []byte(queue)) {
			t.Errorf("the guest has no queue %s: %s", queue, interrupts)
		}
	}
	conn.Close()

	vm, _ := c.machine(mode)
	if got := open(t, vm, "/dev/vhost-net"); got != 2 {
		t.Errorf("QEMU has %d instances of vhost-net open, want one for each queue", got)
	}
	// The worker of each instance has its owner's pid in its name (drivers/vhost/vhost.c).
	if ticks := workers(t, fmt.Sprintf("vhost-%d", vm)); ticks == 0 {
		t.Error("the kernel's workers have done nothing")
	}
	b, err := os.ReadFile(filepath.Join(stateRoot, "sandboxes", mode, "monitor.log"))
	if err != nil || !strings.Contains(string(b), "vhost=true") || !strings.Contains(string(b), "queues=2") {
		t.Errorf("%v: the monitor's log says: %s", err, b)
	}
	c.ok("delete", "--force", mode)
	c.nothingLeft()
	if ticks := workers(t, fmt.Sprintf("vhost-%d", vm)); ticks >= 0 {
		t.Error("the kernel's workers are left")
	}
}

// setCPUs adds to the configuration.
func (c *inside) setCPUs(n int) {
	c.Helper()
	b, err := os.ReadFile(c.config)
	if err == nil {
		text := strings.Replace(string(b), "[hypervisor]\n", fmt.Sprintf("[hypervisor]\ncpus = %d\n", n), 1)
		err = os.WriteFile(c.config, []byte(text), 0o600)
	}
	if err != nil {
		c.Fatal(err)
	}
}

// wire makes a network namespace with an interface whose peer is here, and gives
// its path.
func (c *inside) wire(subnet string) string {
	c.Helper()
	path := filepath.Join(c.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		c.Fatal(err)
	}
	peer := netlink.NewLinkAttrs()
	peer.Name = "peer" + subnet[len(subnet)-1:]
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		done <- func() error {
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
			veth := &netlink.Veth{LinkAttrs: attrs, PeerName: peer.Name, PeerNamespace: netlink.NsFd(int(host.Fd()))}
			if err := netlink.LinkAdd(veth); err != nil {
				return err
			}
			return addressed("eth0", subnet+".2/24")
		}()
	}()
	if err := <-done; err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { unix.Unmount(path, 0) })
	if err := addressed(peer.Name, subnet+".1/24"); err != nil {
		c.Fatal(err)
	}
	return path
}

// addressed gives an interface of the thread's namespace an address and brings it up.
func addressed(name, address string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

// open counts how often a process has a file open.
func open(t *testing.T, pid int, path string) (n int) {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == path {
			n++
		}
	}
	return n
}

// workers gives the ticks that the kernel's threads of that name have run for, -1
// where there are none.
func workers(t *testing.T, name string) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	ticks := -1
	for _, stat := range stats {
		b, err := os.ReadFile(stat)
		if err != nil || !strings.Contains(string(b), "("+name+")") {
			continue
		}
		var user, system int
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil { // proc(5): utime, stime
			t.Fatal(err)
		}
		ticks = max(ticks, 0) + user + system
	}
	return ticks
}
