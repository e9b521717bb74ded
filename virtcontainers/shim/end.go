package shim

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
)

// endNamespace ends whatever else there is in the shim's pid namespace, and waits
// for its end: the file server, with the mounts and files that it holds.
//
// The kernel would do that as well, but not before the shim's main thread is a
// zombie: its last thread to exit is the one that ends the namespace
// (zap_pid_ns_processes). A caller that takes a zombie for dead, as CRI-O does,
// would find the rootfs busy on a machine that is short of time.
func endNamespace(ctx context.Context, server <-chan struct{}) {
	if os.Getpid() != 1 {
		return // it is in somebody else's: of an exec
	}
	if failpoint.Here(failpoint.ShimEnd) != nil {
		return // the kernel does it
	}
	defer trace.Begin(ctx, trace.Phase, "end the file server").End()
	unix.Kill(-1, unix.SIGKILL) // ESRCH: nobody is left
	if server != nil {
		<-server // its own waiter reaps it
	}
	for { // what it has left behind is ours now
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
	}
}
