package hypervisor

import (
	"context"
	"runtime"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
)

// startOnDyingThread calls Start on a thread that has ended when this
// returns.
func startOnDyingThread(ctx context.Context, cfg hypervisor.Config) (vm hypervisor.VM, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		vm, err = qemu.Driver{}.Start(ctx, cfg)
	}()
	<-done
	return vm, err
}
