package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/signals"
)

// Kill sends a signal to a container. KILL, and TERM unless the configuration
// says otherwise, stop it: when Kill returns, the container is stopped and its
// rootfs released. TERM waits for the process to obey as long as the grace
// is, and then kills. Any other signal is only delivered, to every process of
// the container where all is set.
//
// signals.Default is the container's own stop signal, or TERM, and does what TERM
// does.
//
// Kill takes no lock, so that a KILL overtakes a TERM, a create or a start.
func (r *Runtime) Kill(ctx context.Context, id string, sig unix.Signal, all bool) error {
	rec, err := r.record(id)
	if err != nil {
		return err
	}
	st, ok := r.reconcile(ctx, rec)
	if !ok {
		return state.ErrNotExist
	}
	if err := lifecycle.Allow(lifecycle.OpKill, st, lifecycle.Options{ID: id, All: all}); err != nil || st == lifecycle.Stopped {
		return err
	}
	polite := sig == unix.SIGTERM
	if sig == signals.Default {
		if sig, err = stopSignal(rec); err != nil {
			return err
		}
		polite = sig != unix.SIGKILL
	}
	switch {
	case sig == 0:
		return nil // a probe: the container is there
	case st == lifecycle.Creating:
		return r.killCreating(ctx, rec, polite || sig == unix.SIGKILL)
	case sig == unix.SIGKILL:
		return r.stopNow(ctx, rec)
	case polite && (r.Config.Runtime.OnTerm == config.OnTermStop || st == lifecycle.Created):
		return r.stop(ctx, rec, sig)
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	if err := failpoint.Here(failpoint.KillSignal); err != nil {
		return err
	}
	_, err = r.ask(ctx, rec, &monitor.Request{Op: monitor.OpSignal, Signal: int(sig), All: all})
	if notThere(err) {
		return lifecycle.ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("signal container %s: %w", id, err)
	}
	return nil
}

// stopSignalAnnotation names the signal that ends a container politely
// (image-spec, "Conversion to OCI Runtime Configuration").
const stopSignalAnnotation = "org.opencontainers.image.stopSignal"

// stopSignal is what a container wants to be ended by.
func stopSignal(rec *state.Container) (unix.Signal, error) {
	text, ok := rec.Annotations[stopSignalAnnotation]
	if !ok {
		return unix.SIGTERM, nil
	}
	sig, err := signals.Parse(text)
	if err != nil || sig == 0 {
		return 0, fmt.Errorf("annotation %s: %q: expected a signal", stopSignalAnnotation, text)
	}
	return sig, nil
}

// killCreating kills a container whose create still runs, and so fails, if the
// signal is one that ends. Where it is not in the guest yet there is nothing that
// another one could reach.
func (r *Runtime) killCreating(ctx context.Context, rec *state.Container, ends bool) error {
	if !ends {
		return lifecycle.ErrNotRunning
	}
	ctx, cancel := context.WithTimeout(ctx, r.stopTimeout())
	defer cancel()
	if err := failpoint.Here(failpoint.KillCreating); err != nil {
		return err
	}
	_, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)})
	if notThere(err) {
		return lifecycle.ErrNotRunning
	}
	if err != nil && rec.Sandbox != rec.ID { // its shim is not in the record yet
		return fmt.Errorf("kill container %s, which is being created: %w", rec.ID, err)
	}
	if err != nil {
		r.Log.WithError(err).WithField("container", rec.ID).Warn("the monitor does not stop the container: using force")
		return r.force(rec)
	}
	return nil
}

// stop is StopContainer with TERM, or another signal that asks for the end, and
// the grace.
func (r *Runtime) stop(ctx context.Context, rec *state.Container, sig unix.Signal) error {
	grace, err := r.Config.Grace(rec.Annotations)
	if err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.KillTerm); err != nil {
		return err
	}
	// The monitor keeps the time; it answers when the container is stopped.
	wait := time.Duration(-1)
	if !grace.Infinite() {
		wait = grace.Std()
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, wait+r.stopTimeout())
		defer cancel()
	}
	_, err = r.ask(ctx, rec, &monitor.Request{Op: monitor.OpStop, Signal: int(sig), Grace: int64(wait)})
	if err != nil && !notThere(err) {
		r.Log.WithError(err).WithField("container", rec.ID).Warn("the monitor does not stop the container: using force")
		return r.force(rec)
	}
	return r.awaitRelease(rec)
}

// stopNow is StopContainer with KILL. It needs no answer: not of the guest,
// which the monitor gives a deadline, and not of the monitor.
func (r *Runtime) stopNow(ctx context.Context, rec *state.Container) error {
	if err := failpoint.Here(failpoint.KillAsk); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.stopTimeout())
	defer cancel()
	_, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)})
	if err != nil && !notThere(err) {
		r.Log.WithError(err).WithField("container", rec.ID).Warn("the monitor does not stop the container: using force")
		return r.force(rec)
	}
	return r.awaitRelease(rec)
}

// stopTimeout is how long the monitor may take for a KILL before the command
// does without it: what it may spend on the guest and on the output, and a
// second for itself.
func (r *Runtime) stopTimeout() time.Duration {
	c := &r.Config.Runtime
	return c.KillTimeout.Std() + c.FlushTimeout.Std() + time.Second
}

// awaitRelease returns when the shim, and with it the file server, is gone.
func (r *Runtime) awaitRelease(rec *state.Container) error {
	if err := failpoint.Here(failpoint.KillRelease); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), r.stopTimeout())
	defer cancel()
	if err := rec.Shim.Wait(ctx); err == nil {
		return nil
	}
	return r.force(rec)
}

// force ends a container by ending its processes on the host. The monitor
// goes too, and with it the VM, where the container has that to itself or
// where the monitor has died.
func (r *Runtime) force(rec *state.Container) error {
	if err := failpoint.Here(failpoint.KillForce); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	errs := []error{rec.Shim.Kill(ctx)}
	if rec.Sandbox == rec.ID || !r.monitorAlive(rec.Sandbox) {
		errs = append(errs, r.killSandbox(ctx, rec.Sandbox))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop container %s by force: %w", rec.ID, err)
	}
	return nil
}

// killSandbox ends the processes of a sandbox: first the monitor, which would
// take the VM's end for news.
func (r *Runtime) killSandbox(ctx context.Context, id string) error {
	if err := failpoint.Here(failpoint.KillSandbox); err != nil {
		return err
	}
	sb, err := r.sandboxToEnd(id)
	if errors.Is(err, state.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(sb.Monitor.Kill(ctx), sb.VM.Kill(ctx))
}

// notThere reports whether the monitor's answer, or its silence, means that
// the container has ended.
func notThere(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, monitor.ErrGone)
}
