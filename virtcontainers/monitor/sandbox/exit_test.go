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

// TestShimEndsBesideMachine: while the machine dies, which takes its time, the shim
// can end the file server. It has to hear of that when the machine does nothing any
// more, and not before, and of the exit when it has gone.
func TestShimEndsBesideMachine(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	b.vm.dies = make(chan struct{})
	b.ends = func() {
		if !isClosed(b.vm.terminated) {
			t.Error("the shim may end the file server of a machine that runs")
		}
		close(b.vm.dies)
	}
	b.told = func() {
		if !isClosed(b.vm.done) {
			t.Error("the exit is told while the machine lives")
		}
	}
	exits := b.running()
	if err := b.call(monitor.Request{Op: monitor.OpSignal, Signal: int(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, exits); e.Code != 137 || e.Killed {
		t.Errorf("exit %+v, want 137 of a process that nobody waits for", e)
	}
}
