package network

import (
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// answerLimit bounds the wait for an answer of the kernel's rtnetlink, which
// comes at once unless another process holds its lock.
const answerLimit = 10 * time.Second

// inNamespace runs f on a thread that is in the namespace, with a handle that
// is as well. The thread ends afterwards: it is of no other use.
func inNamespace(netns *os.File, f func(h *netlink.Handle) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked
		done <- func() error {
			if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter the network namespace: %w", err)
			}
			h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return fmt.Errorf("open rtnetlink in the network namespace: %w", err)
			}
			defer h.Close()
			if err := h.SetSocketTimeout(answerLimit); err != nil {
				return fmt.Errorf("limit the wait for rtnetlink: %w", err)
			}
			return f(h)
		}()
	}()
	return <-done
}

func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
