package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vc-runtime/vc-runtime/hypervisor/qmp"
	"github.com/vc-runtime/vc-runtime/state"
)

// killLimit is how long a process may take to go after SIGKILL. It takes
// milliseconds, unless it is stuck in the kernel.
const killLimit = 10 * time.Second

// vm is a running QEMU.
type vm struct {
	cmd     *exec.Cmd
	proc    state.Process
	qmp     *qmp.Client
	channel net.Conn
	cpus    int    // that it has started with
	cid     uint32 // address of the vsock device; 0 without
	console *tail
	stderr  *tail

	memory *guestMemory  // of a clone; nil otherwise
	killed atomic.Bool   // we have ended it
	done   chan struct{} // closed when the process was reaped
	err    error         // set before done is closed

	mu      sync.Mutex // guards what follows
	slots   []slot     // one for each root port
	freed   int        // slots ever freed, for their order
	plugged int        // devices ever plugged, for unique names
	dimms   int        // pieces of memory ever plugged
}

func (v *vm) Channel() net.Conn { return v.channel }

func (v *vm) Console() []byte { return v.console.Bytes() }

func (v *vm) Progress() uint64 { return v.console.Written() + v.qmp.Heard() }

func (v *vm) Process() state.Process { return v.proc }

func (v *vm) Pause(ctx context.Context) error { return v.explain(v.qmp.Execute(ctx, "stop", nil, nil)) }

func (v *vm) Resume(ctx context.Context) error {
	return v.explain(v.qmp.Execute(ctx, "cont", nil, nil))
}

func (v *vm) Done() <-chan struct{} { return v.done }

func (v *vm) Err() error {
	select {
	case <-v.done:
		return v.err
	default:
		return nil
	}
}

// Terminate is hypervisor.VM. It needs no answer from QEMU.
func (v *vm) Terminate() error {
	select {
	case <-v.done:
		return nil
	default:
	}
	v.killed.Store(true)
	if err := v.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill QEMU: %w", err)
	}
	v.memory.discard()
	return nil
}

// Kill is hypervisor.VM. The channel stays open for what the guest had said
// before; it is the caller's to close.
func (v *vm) Kill() error {
	if err := v.Terminate(); err != nil {
		return err
	}
	select {
	case <-v.done:
	case <-time.After(killLimit):
		return fmt.Errorf("kill QEMU: pid %d still there %v after SIGKILL", v.proc.Pid, killLimit)
	}
	if v.qmp != nil {
		return v.qmp.Close()
	}
	return nil
}

// explain adds to the error of a call that QEMU has ended meanwhile, which
// says more than that the connection has.
func (v *vm) explain(err error) error {
	if err == nil {
		return nil
	}
	if end := v.Err(); end != nil {
		return fmt.Errorf("%w (%w)", err, end)
	}
	return err
}
