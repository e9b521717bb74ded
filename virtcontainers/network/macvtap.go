package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// macvtapName is that of each macvtap, in a namespace of its own.
const macvtapName = tapPrefix + "0"

// releaseLimit bounds the wait for the kernel to be done with the macvtap of a
// machine that has died: it removes namespaces in the background.
const releaseLimit = 2 * time.Second

// connectMacvtap puts a macvtap on an interface. Unlike a tap, a macvtap does not
// end with its files. So it is made in a network namespace that nothing holds but
// those files (the kernel's socket behind each has a reference) and tap.home: when
// the last is closed, by whatever death, the kernel removes the namespace and the
// macvtap in it. On an error nothing is left.
//
// The mode is passthru: the macvtap takes the interface's hardware address and
// all of its packets, and the kernel allows no second one on it. In the other modes
// it would need an address of its own, which the interface's peers do not expect.
func connectMacvtap(ctx context.Context, netns *os.File, h *netlink.Handle, i *netInterface, queues int) (*tap, error) {
	switch i.kind {
	case "macvlan", "macvtap":
		// The kernel would put it on the interface below, which may be the host's.
		return nil, fmt.Errorf("a macvtap cannot sit on a %s (network.mode = %q can connect it): %w", i.kind, ModeTC, ErrUnsupported)
	}
	// A filter that a killed monitor has left would come before the macvtap.
	if err := clearStale(h, i.index); err != nil {
		return nil, err
	}
	t := &tap{name: macvtapName}
	err := inNewNamespace(func(home *os.File, own *netlink.Handle) error {
		t.home = home
		if err := t.addMacvtap(ctx, netns, h, i); err != nil {
			return err
		}
		link, err := own.LinkByName(t.name)
		if err != nil {
			return fmt.Errorf("find the macvtap: %w", err)
		}
		t.index = link.Attrs().Index
		if err := t.openMacvtap(queues); err != nil {
			return err
		}
		// Which multicast groups the guest is in, only the guest knows.
		if err := own.LinkSetAllmulticastOn(link); err != nil {
			return fmt.Errorf("have the macvtap receive all multicast: %w", err)
		}
		return t.bringUp(own, int(i.config.Mtu))
	})
	if t.home != nil && err != nil {
		err = errors.Join(err, t.remove(h))
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// inNewNamespace runs f on a thread in a new network namespace, which home keeps
// for as long as it is open: also when f fails.
func inNewNamespace(f func(home *os.File, own *netlink.Handle) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			own, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return errors.Join(fmt.Errorf("open rtnetlink in a new network namespace: %w", err), home.Close())
			}
			defer own.Close()
			if err := own.SetSocketTimeout(answerLimit); err != nil {
				return errors.Join(fmt.Errorf("limit the wait for rtnetlink: %w", err), home.Close())
			}
			return f(home, own)
		}()
	}()
	return <-done
}

// addMacvtap makes the device on an interface of h's namespace. Where the
// interface has one already it waits a moment for that to go, should its machine
// have died.
func (t *tap) addMacvtap(ctx context.Context, netns *os.File, h *netlink.Handle, i *netInterface) error {
	add := func() error {
		attrs := netlink.NewLinkAttrs() // with the kernel's length of the queues, where zero values have 0
		attrs.Name, attrs.ParentIndex, attrs.Namespace = t.name, i.index, netlink.NsFd(int(t.home.Fd()))
		return h.LinkAdd(&netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PASSTHRU}})
	}
	// EINVAL and EBUSY are the kernel's answers to a second one, and for a port of a bridge or bond.
	taken := func(err error) bool { return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EBUSY) }
	err := add()
	if taken(err) {
		err = retryOnChange(ctx, netns, add, taken)
	}
	switch {
	case taken(err):
		return fmt.Errorf("%w: it carries another macvtap or macvlan, or is part of another interface (%w)", ErrBusy, err)
	case errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("add a macvtap (needs the kernel's macvtap): %w", err)
	case err != nil:
		return fmt.Errorf("add a macvtap: %w", err)
	}
	return nil
}

// retryOnChange does it again at each change of an interface in the namespace,
// such as the end of promiscuity that comes with that of a macvtap, while again
// says so and until releaseLimit.
func retryOnChange(ctx context.Context, ns *os.File, do func() error, again func(error) bool) error {
	ctx, cancel := context.WithTimeout(ctx, releaseLimit)
	defer cancel()
	changes := make(chan netlink.LinkUpdate)
	end := make(chan struct{})
	err := inNamespace(ns, func(*netlink.Handle) error { // subscribes the thread's namespace
		return netlink.LinkSubscribeWithOptions(changes, end, netlink.LinkSubscribeOptions{ErrorCallback: func(error) {}})
	})
	if err != nil {
		close(end)
		return fmt.Errorf("listen for changes of interfaces: %w", err)
	}
	defer func() {
		close(end)
		for range changes { // closed by the library, which may be writing
		}
	}()
	for {
		err := do()
		if !again(err) {
			return err
		}
		select {
		case _, open := <-changes:
			if !open {
				return err
			}
		case <-ctx.Done():
			return err
		}
	}
}

// openMacvtap opens the queues. It is called on a thread in the macvtap's
// namespace, so that each file holds that.
func (t *tap) openMacvtap(queues int) error {
	device, err := macvtapDevice(t.name, t.index)
	if err != nil {
		return fmt.Errorf("find the macvtap's device: %w", err)
	}
	// udev may have made a node in /dev, or not, or that of an interface with the
	// same number in another namespace: so there is one of our own, on a file
	// system that nobody else sees.
	dir, err := detached("tmpfs")
	if err != nil {
		return fmt.Errorf("make a device node: %w", err)
	}
	defer unix.Close(dir)
	if err := unix.Mknodat(dir, "tap", unix.S_IFCHR|0o600, int(device)); err != nil {
		return fmt.Errorf("make a device node: %w", err)
	}
	for range queues {
		// Not os.OpenFile, which would have the runtime poll it.
		fd, err := unix.Openat(dir, "tap", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return &fs.PathError{Op: "open", Path: "macvtap", Err: err}
		}
		f := os.NewFile(uintptr(fd), "macvtap")
		t.queues = append(t.queues, f)
		if _, err := setFlags(f, t.name, queues > 1); err != nil {
			return err
		}
	}
	return nil
}

// macvtapDevice reads the number of a macvtap's device from the sysfs of the
// calling thread's network namespace.
func macvtapDevice(name string, index int) (uint64, error) {
	dir, err := detached("sysfs")
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	path := fmt.Sprintf("class/net/%s/tap%d/dev", name, index)
	fd, err := unix.Openat(dir, path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	text := make([]byte, 32)
	n, err := f.Read(text)
	if err != nil {
		return 0, err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(text[:n])), ":")
	maj, err := strconv.ParseUint(major, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	min, err := strconv.ParseUint(minor, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return unix.Mkdev(uint32(maj), uint32(min)), nil
}

// detached mounts a file system where no path leads to it (fsmount(2)); it ends
// with the descriptor.
func detached(kind string) (fd int, err error) {
	context, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount a %s: %w", kind, err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return -1, fmt.Errorf("mount a %s: %w", kind, err)
	}
	fd, err = unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, fmt.Errorf("mount a %s: %w", kind, err)
	}
	return fd, nil
}
