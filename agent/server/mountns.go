package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// mountNamespace keeps a container's mount namespace from ending with its last
// process.
//
// The file systems in there that the host has mounted below a share are the
// kernel's automatic submounts of virtiofs, file systems of their own. With the
// namespace they would be shut down while the process ends, and Linux 6.1 shuts
// such a one down without waiting for its requests. A file that is closed before
// all that was read ahead of it has come is released when it has (FUSE_RELEASE),
// which nobody waits for, and holds an inode until then: a bug of the kernel at
// which the process never ends (fs/fuse/virtio_fs.c, virtio_kill_sb; fs/super.c,
// "Busy inodes after unmount").
type mountNamespace struct{ f *os.File }

// openMountNamespace opens that of a process; nil if it has ended.
func openMountNamespace(pid int) (*mountNamespace, error) {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns/mnt"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &mountNamespace{f}, nil
}

// releaseMounts lets go of the container's mounts, once its processes are gone
// and the last of what they have asked for is answered.
func (c *container) releaseMounts(ctx context.Context) error {
	if c.mounts == nil {
		return nil
	}
	// The first answer comes behind all that was being read, the second one behind
	// the releases which that has led to.
	for range 2 {
		if err := c.host.cfg.Shares.Drain(ctx, c.share()); err != nil {
			return err
		}
	}
	err := c.mounts.f.Close()
	c.mounts = nil
	return err
}
