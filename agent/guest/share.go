package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/reaper"
)

// shareModules is the module group that virtiofs needs.
const shareModules = "virtiofs"

// readAhead is how much of a share's file is read at once where it is mapped, as
// programs are, or read in order, in KiB: fewer requests of the file server, each
// of which carries 496 KiB at most (the queue's 128 entries but those of FUSE's
// headers). The kernel's default is 128.
const readAhead = 512

// Shares mounts the folders that the host shares.
type Shares struct {
	Modules *Modules
	Reaper  *reaper.Reaper
}

// Mount mounts the virtiofs share with the given tag on dir, waiting until the
// kernel has found the device.
func (s *Shares) Mount(ctx context.Context, tag, dir string) error {
	ev, err := listenUevents()
	if err != nil {
		return err
	}
	defer ev.close()
	if err := s.Modules.Load(shareModules); err != nil {
		return err
	}
	for {
		err := unix.Mount(tag, dir, "virtiofs", 0, "")
		if err == nil {
			return setReadAhead(dir)
		}
		// virtio_fs_get_tree gives EINVAL for a tag it does not know.
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("mount share %s: %w", tag, err)
		}
		if werr := ev.wait(ctx); werr != nil {
			return fmt.Errorf("wait for share %s: %w (%w)", tag, werr, err)
		}
	}
}

// setReadAhead has the guest read so much ahead of files in the share mounted on dir
// (Documentation/ABI/testing/sysfs-class-bdi).
func setReadAhead(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("look at share %s: %w", dir, err)
	}
	path := fmt.Sprintf("/sys/class/bdi/%d:%d/read_ahead_kb", unix.Major(st.Dev), unix.Minor(st.Dev))
	return os.WriteFile(path, []byte(strconv.Itoa(readAhead)), 0)
}

// Drain waits for an answer of the host's file server, which gives them in the
// order of the questions. Where the device has gone nothing is asked any more.
func (s *Shares) Drain(ctx context.Context, dir string) error {
	return answer(ctx, dir, func() error {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err != nil && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("ask for an answer of %s: %w", dir, err)
		}
		return nil
	})
}

// answer waits until ask has its answer of the host's file server, which may never
// come: who waits for it then cannot be ended.
func answer(ctx context.Context, dir string, ask func() error) error {
	answered := make(chan error, 1)
	go func() { answered <- ask() }() // ends with the answer, or the machine
	select {
	case err := <-answered:
		return err
	case <-ctx.Done():
		return fmt.Errorf("wait for an answer of %s: %w", dir, ctx.Err())
	}
}

// Unmount writes the share back and unmounts it, plainly: when it returns
// without an error nothing in the agent's mount namespace uses it. A dir that is
// no mount is fine. What a file server does not answer for stays mounted.
func (s *Shares) Unmount(ctx context.Context, dir string) error {
	if err := answer(ctx, dir, func() error { return syncfs(dir) }); err != nil {
		return err
	}
	return unmount(ctx, s.Reaper, dir)
}

// unmount unmounts dir, plainly. What keeps a container's mount busy is a
// process that is being reaped: it is tried again after each. A dir that is no
// mount is fine.
func unmount(ctx context.Context, reap *reaper.Reaper, dir string) error {
	for {
		next := reap.Next()
		err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY):
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("unmount %s: %w (%w)", dir, err, ctx.Err())
		}
	}
}

// syncfs writes a file system back, where there is one and somebody serves it
// still (ENOTCONN: its device was unplugged): else there is nowhere to write to.
func syncfs(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTCONN) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil && !errors.Is(err, unix.ENOTCONN) {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
