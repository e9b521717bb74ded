package sandbox

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// TestTeardownBeforeExit: whoever hears of the end of the process, as the shim's
// parent does next, finds nothing of the container any more.
func TestTeardownBeforeExit(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	b.told = func() {
		if !isClosed(b.vm.done) {
			t.Error("the exit is told while the machine lives")
		}
	}
	exits := b.running()
	if err := b.call(monitor.Request{Op: monitor.OpSignal, Signal: int(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	exitOf(t, exits)
}
