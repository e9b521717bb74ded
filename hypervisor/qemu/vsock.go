package qemu

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"unsafe"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// vhostVsock is the device that gives a machine a vsock address (kernel:
// drivers/vhost/vsock.c).
const vhostVsock = "/dev/vhost-vsock"

// vsockDriver is QEMU's name of the device.
const vsockDriver = "vhost-vsock-pci"

// setGuestCID is VHOST_VSOCK_SET_GUEST_CID of linux/vhost.h, _IOW(0xAF, 0x60, __u64).
const setGuestCID = 0x4008AF60

// Addresses of machines: 0 to 2 are the hypervisor, a machine itself and the
// host, the last is the wildcard (vsock(7)).
const firstCID, lastCID = 3, 1<<32 - 2

// drawLimit is how many addresses are tried. Of four thousand million some
// are taken: more than a few refusals mean that something else is wrong.
const drawLimit = 100

// CheckVsock says why machines with vsock cannot be made on this host, as far
// as the kernel's device can tell; nil if they can. It wraps fs.ErrNotExist
// where there is no device.
func CheckVsock() error {
	f, _, err := openVsock(vhostVsock)
	if err != nil {
		return err
	}
	return f.Close()
}

// openVsock takes an address that no other machine of the host has. It is
// taken for as long as the file is open.
func openVsock(path string) (*os.File, uint32, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", hypervisor.ErrVsock, err) // has verb and path
	}
	cid, err := takeCID(func(cid uint64) error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), setGuestCID, uintptr(unsafe.Pointer(&cid)))
		if errno != 0 {
			return errno
		}
		return nil
	}, randomCID)
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%w: %s: %w", hypervisor.ErrVsock, path, err)
	}
	return f, cid, nil
}

// takeCID draws addresses until set accepts one.
func takeCID(set func(cid uint64) error, draw func() uint32) (uint32, error) {
	for range drawLimit {
		cid := draw()
		err := set(uint64(cid))
		switch {
		case err == nil:
			return cid, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return 0, fmt.Errorf("set the address (CID) to %d: %w", cid, err)
		}
	}
	return 0, fmt.Errorf("%d addresses (CIDs) are in use: %w", drawLimit, unix.EADDRINUSE)
}

func randomCID() uint32 { return uint32(firstCID + rand.Uint64N(lastCID-firstCID+1)) }

// blameVsock makes the error of a start ErrVsock if it is the device's. QEMU
// says which option it does not like (util/error-report.c, its location).
func blameVsock(err error) error {
	if strings.Contains(err.Error(), "-device "+vsockDriver+",") {
		return fmt.Errorf("%w: %w", hypervisor.ErrVsock, err)
	}
	return err
}

// DialVsock is hypervisor.VM.
func (v *vm) DialVsock(ctx context.Context, port uint32) (net.Conn, error) {
	if v.cid == 0 {
		return nil, fmt.Errorf("%w: the machine has no vsock device", hypervisor.ErrVsock)
	}
	for {
		conn, err := vsock.DialContext(ctx, v.cid, port, nil)
		switch {
		case err == nil:
			return conn, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("connect to vsock port %d: %w (%w)", port, ctx.Err(), v.explain(err))
		case !errors.Is(err, unix.ETIMEDOUT):
			return nil, fmt.Errorf("connect to vsock port %d: %w", port, v.explain(err))
		}
		// The kernel gives up after 2 s, which an emulated guest on a busy
		// host may take: the deadline is the caller's.
	}
}
