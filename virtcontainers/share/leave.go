package share

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// threadMounts opens the mount namespace of the calling thread.
func threadMounts() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, fmt.Errorf("open the mount namespace: %w", err)
	}
	return f, nil
}

// LeaveHost takes all mounts of the host out of the namespace that the server was
// started in. It is for when the guest has mounted the share: by then the server has
// a namespace of its own, with nothing in it but the share, but its parent stays in
// the first one and waits. There it would hold what was mounted when the container
// was started until the container ends: an unmount by the host reaches copies of a
// shared mount only, and engines make the folder private that they mount their
// containers in.
func (s *Server) LeaveHost() error {
	if s.mounts == nil {
		return nil
	}
	defer func() {
		s.mounts.Close()
		s.mounts = nil
	}()
	left := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this goroutine
		left <- detachAll(int(s.mounts.Fd()))
	}()
	if err := <-left; err != nil {
		return fmt.Errorf("take the host's mounts away from the file server: %w", err)
	}
	return nil
}

// detachAll enters a mount namespace and detaches all that is mounted there, its
// root included: who runs there keeps the file systems of its root and of its program.
func detachAll(namespace int) error {
	if err := failpoint.Here(failpoint.ShimLeaveHost); err != nil {
		return err
	}
	// A thread that shares its root with others may not change it (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	if err := unix.Unmount("/", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("umount: %w", err)
	}
	return nil
}
