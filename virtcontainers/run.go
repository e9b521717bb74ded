package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
	"github.com/vc-runtime/vc-runtime/virtcontainers/shim"
)

// Run creates and starts a container. Unless it is to be detached, Run passes
// signals on to it, waits for its end, deletes it (unless it is to be kept),
// and gives its exit code.
func (r *Runtime) Run(ctx context.Context, o RunOptions) (int, error) {
	b, err := oci.Load(o.Bundle)
	if err != nil {
		return 1, err
	}
	terminal := b.Spec.Process.Terminal
	switch {
	case o.Detach && terminal && o.ConsoleSocket == "":
		return 1, errNoConsole
	case o.ConsoleSocket != "" && !(o.Detach && terminal):
		return 1, errNoTerminal
	}
	if !o.NoSubreaper && !o.Detach {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 1, fmt.Errorf("become a subreaper: %w", err)
		}
	}
	signals := make(chan os.Signal, 64)
	if !o.Detach {
		signal.Notify(signals)
		defer signal.Stop(signals)
	}
	proc, err := r.create(ctx, o.CreateOptions, o.Detach)
	if err != nil {
		return 1, err
	}
	if terminal && !o.Detach { // what there is to tell of create has been told
		if old, err := shim.MakeRaw(o.Stdin); err == nil {
			defer shim.RestoreTerminal(o.Stdin, old)
		}
	}
	ready, err := r.start(ctx, o.ID)
	if err != nil {
		return 1, errors.Join(err, r.Delete(ctx, o.ID, true))
	}
	if o.Started != nil {
		o.Started()
	}
	if o.Detach {
		return 0, errors.Join(ready.pass(ctx, 0), proc.Release())
	}
	manager, cancel := context.WithCancel(ctx)
	defer cancel()
	passed := make(chan struct{})
	go func() { // ends with the container
		defer close(passed)
		if err := ready.pass(manager, os.Getpid()); err != nil {
			r.Log.WithField("container", o.ID).Warn(err)
		}
	}()
	code, err := waitForwarding(proc, signals)
	cancel()
	<-passed
	if err != nil || o.Keep {
		return code, err
	}
	return code, r.Delete(ctx, o.ID, true)
}

// waitForwarding waits for the shim and passes it the signals that come
// meanwhile.
func waitForwarding(proc *os.Process, signals <-chan os.Signal) (int, error) {
	type result struct {
		st  *os.ProcessState
		err error
	}
	done := make(chan result, 1)
	go func() {
		st, err := proc.Wait()
		done <- result{st, err}
	}()
	for {
		select {
		case sig := <-signals:
			if sig != unix.SIGCHLD && sig != unix.SIGURG && sig != unix.SIGPIPE {
				proc.Signal(sig) // it may just have ended
			}
		case res := <-done:
			if res.err != nil {
				return 1, fmt.Errorf("wait for the container: %w", res.err)
			}
			if ws, ok := res.st.Sys().(unix.WaitStatus); ok && ws.Signaled() {
				return 128 + int(ws.Signal()), nil
			}
			return res.st.ExitCode(), nil
		}
	}
}
