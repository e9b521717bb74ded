package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Stage is the share of a rehearsal (server.Rehearse): a tmpfs with a rootfs
// that has nothing but one static program, /bin/program.
type Stage struct{ Program string }

// Mount makes it; the tag does not matter.
func (s Stage) Mount(_ context.Context, _, dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount the stage: %w", err)
	}
	bin := filepath.Join(dir, "rootfs/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return err
	}
	src, err := os.Open(s.Program)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(filepath.Join(bin, "program"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// Drain has nothing to wait for.
func (Stage) Drain(context.Context, string) error { return nil }

// Unmount takes it away again.
func (Stage) Unmount(_ context.Context, dir string) error {
	if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount the stage: %w", err)
	}
	return nil
}
