package network

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// vhostNet is the kernel's virtio-net (drivers/vhost/net.c): packets go between
// a tap and the guest without the hypervisor.
const vhostNet = "/dev/vhost-net"

// setOwner is VHOST_SET_OWNER of linux/vhost.h, _IO(0xAF, 0x01).
const setOwner = 0xAF01

// CheckVhost says why packets cannot go through the kernel's virtio-net on this
// host; nil if they can. It wraps fs.ErrNotExist where there is none.
func CheckVhost() error { return checkVhost(vhostNet) }

// checkVhost takes an instance of its own: one that has an owner takes no other,
// and the owner is to be the hypervisor.
func checkVhost(path string) error {
	f, err := openVhost(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := unix.IoctlRetInt(int(f.Fd()), setOwner); err != nil {
		return fmt.Errorf("%s: VHOST_SET_OWNER: %w", path, err)
	}
	return nil
}

// openVhosts gives an instance for each queue.
func openVhosts(path string, queues int) ([]*os.File, error) {
	var files []*os.File
	for range queues {
		f, err := openVhost(path)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func openVhost(path string) (*os.File, error) {
	// Not os.OpenFile, which would have the runtime poll it.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
