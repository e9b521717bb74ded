package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

// settleTimeout is how long `state` waits for a container whose VM has died
// to come to its end: the monitor and the shim are about to see to that.
const settleTimeout = 700 * time.Millisecond

// State gives the state of a container, as it is and not as it was recorded:
// where a process that it needs has died, what is left is cleaned up, and the
// container is stopped. It takes no lock and asks neither guest nor monitor.
func (r *Runtime) State(ctx context.Context, id string) (*State, error) {
	rec, err := r.record(id)
	if err != nil {
		return nil, err
	}
	st, ok := r.reconcile(ctx, rec)
	if !ok {
		return nil, state.ErrNotExist
	}
	return stateOf(rec, st), nil
}

func stateOf(rec *state.Container, st lifecycle.Status) *State {
	s := &State{
		OCIVersion: rec.OCIVersion, ID: rec.ID, Pid: rec.Shim.Pid, Status: string(st),
		Bundle: rec.Bundle, Rootfs: rec.Rootfs, Created: rec.Created,
		Annotations: rec.Annotations, Owner: rec.Owner,
	}
	if st == lifecycle.Stopped {
		s.Pid = 0
	}
	return s
}

// record reads the record of a container whose id the user gave.
func (r *Runtime) record(id string) (*state.Container, error) {
	if err := state.ValidateID(id); err != nil {
		return nil, err
	}
	return r.Store.Container(id)
}

// derive gives the status as it follows from what lives. It is false where
// the container does not exist: its creation never finished.
//
// Nor does it exist where its create was killed before it could claim it.
func (r *Runtime) derive(rec *state.Container) (lifecycle.Status, bool) {
	creating := rec.Creator.Alive()
	if rec.Status == lifecycle.Created && !creating && r.unclaimed(rec.ID) {
		return "", false
	}
	return lifecycle.Derive(r.recorded(rec), lifecycle.Liveness{
		Creator: creating,
		Shim:    rec.Shim.Alive(),
		Monitor: r.monitorAlive(rec.Sandbox),
	})
}

// unclaimed reports whether there is a record that says so, be it damaged.
func (r *Runtime) unclaimed(id string) bool {
	_, err := r.Store.Unclaimed(id)
	return err == nil || errors.Is(err, state.ErrCorrupt) || errors.Is(err, state.ErrFutureVersion)
}

// recorded is how far the container has come: a start that was killed before
// it could write that down may still have started it.
func (r *Runtime) recorded(rec *state.Container) lifecycle.Status {
	if rec.Status != lifecycle.Created {
		return rec.Status
	}
	sb, err := r.Store.Sandbox(rec.Sandbox)
	if err == nil && slices.Contains(sb.Started, rec.ID) {
		return lifecycle.Running
	}
	return rec.Status
}

// monitorAlive asks for the lock that the monitor holds all its life. Before
// it has taken that, the process that was recorded at its birth counts.
func (r *Runtime) monitorAlive(sandbox string) bool {
	if held, err := r.Store.SandboxHeld(sandbox); err == nil && held {
		return true
	}
	rec, err := r.Store.Sandbox(sandbox)
	return err == nil && rec.Monitor.Alive()
}

// reconcile derives the status, and makes it true: stopped means that the
// rootfs has been released.
func (r *Runtime) reconcile(ctx context.Context, rec *state.Container) (lifecycle.Status, bool) {
	r.settle(ctx, rec)
	st, ok := r.derive(rec)
	if !ok || st == lifecycle.Creating {
		return st, ok
	}
	if st != lifecycle.Stopped {
		// A dead VM ends its containers by way of monitor and shim, which
		// live and are on their way: give them a moment.
		if sb, err := r.Store.Sandbox(rec.Sandbox); err != nil || sb.VM.Pid == 0 || sb.VM.Alive() {
			return st, true
		}
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		if rec.Shim.Wait(ctx) != nil {
			return st, true
		}
		return lifecycle.Stopped, true
	}
	if err := r.endOrphans(ctx, rec); err != nil {
		r.Log.WithError(err).WithField("container", rec.ID).Warn("clean up after a dead container")
	}
	return st, true
}

// settle waits a moment for processes of the container that have been killed
// and are about to go: whoever killed them is told the result.
func (r *Runtime) settle(ctx context.Context, rec *state.Container) {
	processes := []state.Process{rec.Shim}
	if sb, err := r.Store.Sandbox(rec.Sandbox); err == nil {
		processes = append(processes, sb.Monitor, sb.VM)
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for _, p := range processes {
		if p.Ending() {
			p.Wait(ctx) // or not: what follows looks again
		}
	}
}

// endOrphans ends what has outlived the container: the shim where the monitor
// has died (it is about to end by itself), and the VM.
func (r *Runtime) endOrphans(ctx context.Context, rec *state.Container) error {
	if !rec.Shim.Alive() && r.monitorAlive(rec.Sandbox) {
		return nil // the monitor sees to the rest
	}
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	wait, stop := context.WithTimeout(ctx, settleTimeout/2)
	defer stop()
	var errs []error
	if rec.Shim.Wait(wait) != nil {
		errs = append(errs, rec.Shim.Kill(ctx))
	}
	sb, err := r.Store.Sandbox(rec.Sandbox)
	if err == nil && !r.monitorAlive(rec.Sandbox) {
		if err := sb.VM.Kill(ctx); err != nil {
			errs = append(errs, fmt.Errorf("end the VM: %w", err))
		}
	}
	return errors.Join(errs...)
}
