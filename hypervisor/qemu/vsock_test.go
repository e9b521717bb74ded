package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// kernel plays VHOST_VSOCK_SET_GUEST_CID: each address can be had once, the
// reserved ones not at all.
type kernel map[uint64]bool

func (k kernel) set(cid uint64) error {
	switch {
	case cid <= 2 || cid >= 1<<32-1:
		return unix.EINVAL
	case k[cid]:
		return unix.EADDRINUSE
	}
	k[cid] = true
	return nil
}

// from draws the numbers in turn.
func from(cids ...uint32) func() uint32 {
	return func() uint32 {
		next := cids[0]
		if len(cids) > 1 {
			cids = cids[1:]
		}
		return next
	}
}

func TestTakeCID(t *testing.T) {
	k := kernel{}
	for _, test := range []struct {
		draw func() uint32
		want uint32
		err  error
	}{
		{from(7), 7, nil},
		{from(7, 7, 8), 8, nil}, // taken ones are passed over
		{from(7), 0, unix.EADDRINUSE},
		{from(2), 0, unix.EINVAL}, // anything else is not tried again
		{from(1<<32 - 1), 0, unix.EINVAL},
	} {
		got, err := takeCID(k.set, test.draw)
		if got != test.want || !errors.Is(err, test.err) {
			t.Errorf("got %d, %v; want %d, %v", got, err, test.want, test.err)
		}
	}
	closed := func(uint64) error { return unix.EBADF }
	if _, err := takeCID(closed, from(9)); !errors.Is(err, unix.EBADF) {
		t.Errorf("a device that does not work: %v", err)
	}
}

func TestRandomCIDs(t *testing.T) {
	k := kernel{}
	for range 1000 {
		if _, err := takeCID(k.set, randomCID); err != nil {
			t.Fatal(err)
		}
	}
	if len(k) != 1000 {
		t.Errorf("%d addresses for 1000 machines", len(k))
	}
}

func TestOpenVsock(t *testing.T) {
	dir := t.TempDir()
	_, _, err := openVsock(filepath.Join(dir, "none"))
	if !errors.Is(err, hypervisor.ErrVsock) || !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir) {
		t.Errorf("no device: %v", err)
	}
	// A file that is no vsock device.
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, _, err = openVsock(path)
	if !errors.Is(err, hypervisor.ErrVsock) || !errors.Is(err, unix.ENOTTY) || !strings.Contains(err.Error(), path) {
		t.Errorf("another device: %v", err)
	}
}

// What QEMU 7.2 says when the device is none of the kernel's, and when it was
// built without the driver.
func TestBlameVsock(t *testing.T) {
	for said, want := range map[string]bool{
		"qemu-system-x86_64: -device vhost-vsock-pci,id=vsock,bus=pcie.0,addr=0x1,vhostfd=9,guest-cid=3: vhost_set_owner failed: Inappropriate ioctl for device": true,
		"qemu-system-x86_64: -device vhost-vsock-pci,id=vsock,guest-cid=3: 'vhost-vsock-pci' is not a valid device model name":                                   true,
		"qemu-system-x86_64: could not load kernel '/dev/null'":                                                                                                  false,
	} {
		err := blameVsock(fmt.Errorf("QEMU ended: exit status 1: %s", said))
		if errors.Is(err, hypervisor.ErrVsock) != want || !strings.Contains(err.Error(), said) {
			t.Errorf("%v: the vsock device's %v, want %v", err, !want, want)
		}
	}
}

func TestDialWithoutVsock(t *testing.T) {
	v := &vm{}
	if _, err := v.DialVsock(t.Context(), 1); !errors.Is(err, hypervisor.ErrVsock) {
		t.Error(err)
	}
}
