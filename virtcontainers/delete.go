package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/hooks"
)

// Delete removes a stopped container, and what is left of its sandbox. A
// created one is stopped first, and with force one in any state; an unknown id
// is no error then. Every step runs, also after one that fails.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	if err := state.ValidateID(id); err != nil {
		return err
	}
	r.Reap(ctx)
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	if err := failpoint.Here(failpoint.DeleteBegin); err != nil {
		return err
	}
	begin := r.beginDelete
	if force {
		begin = r.beginForced
	}
	o, err := begin(ctx, id)
	if err != nil {
		return err
	}
	defer o.End()
	rec, err := r.Store.Container(id)
	if err != nil && force {
		return r.cleanUnknown(ctx, id, err)
	}
	if err != nil {
		return err
	}
	if _, err := r.Store.Sandbox(rec.Sandbox); errors.Is(err, state.ErrFutureVersion) {
		return err // who wrote that knows what else there is to clean
	}
	st, ok := r.reconcile(ctx, rec)
	if ok {
		if err := lifecycle.Allow(lifecycle.OpDelete, st, lifecycle.Options{ID: id, Force: force}); err != nil {
			return err
		}
	} else if !force {
		return state.ErrNotExist
	} else {
		r.giveUpRoom(ctx, rec.Sandbox, id)
	}
	if ok && st != lifecycle.Stopped && st != lifecycle.Creating {
		if err := failpoint.Here(failpoint.DeleteStop); err != nil {
			return err
		}
		if err := r.stopNow(ctx, rec); err != nil {
			return err
		}
	}
	if err := r.clean(ctx, rec); err != nil {
		return err
	}
	r.reapRooms(ctx, rec.Sandbox)
	// The container is gone, whatever its poststop hooks say.
	if err := errors.Join(failpoint.Here(failpoint.DeleteHooks), r.runHooks(ctx, rec, hooks.Poststop, lifecycle.Stopped)); err != nil {
		r.Log.WithField("container", id).Error(err)
	}
	return nil
}

// cleanUnknown removes what there is under an id whose record is missing or
// cannot be read: a create may have been killed before its first record, and a
// damaged record must not keep a sandbox alive.
func (r *Runtime) cleanUnknown(ctx context.Context, id string, cause error) error {
	if !errors.Is(cause, state.ErrNotExist) && !errors.Is(cause, state.ErrCorrupt) {
		return cause
	}
	damaged := errors.Is(cause, state.ErrCorrupt)
	if damaged {
		r.killDamaged(ctx, id)
	}
	r.giveUpRecordedRoom(ctx, id, "")
	// The id may also be that of a pod that never had a container of its own.
	if err := r.endIfLast(ctx, &state.Container{ID: id, Sandbox: id}); err != nil {
		return err
	}
	if damaged {
		if err := r.leaveOwned(ctx, id); err != nil {
			return err
		}
	}
	return r.forget(id)
}

// clean ends what still lives of a container and removes its traces, the
// record last: while that is there, somebody knows what to clean.
func (r *Runtime) clean(ctx context.Context, rec *state.Container) error {
	if err := r.cleanUp(ctx, rec); err != nil {
		return err
	}
	return r.forget(rec.ID)
}

// cleanUp is clean up to the record.
func (r *Runtime) cleanUp(ctx context.Context, rec *state.Container) error {
	err := errors.Join(
		failpoint.Here(failpoint.DeleteShim),
		rec.Shim.Kill(ctx),
		r.endIfLast(ctx, rec),
		failpoint.Here(failpoint.DeleteCgroup),
		r.leavePlace(ctx, rec.ID, rec.Cgroup),
		r.endStray(ctx, rec),
		failpoint.Here(failpoint.DeleteRecord),
	)
	if err != nil {
		return fmt.Errorf("clean up container %s: %w", rec.ID, err)
	}
	return nil
}

// endIfLast ends the record's sandbox where no other container lives in it,
// and removes what is left of it.
func (r *Runtime) endIfLast(ctx context.Context, rec *state.Container) error {
	if err := failpoint.Here(failpoint.DeleteLockSandbox); err != nil {
		return err
	}
	lock, err := r.Store.LockSandbox(ctx, rec.Sandbox)
	if err != nil {
		return err
	}
	defer lock.Release()
	last, err := r.lastOf(ctx, rec)
	if err != nil || !last {
		return err
	}
	return r.endSandbox(ctx, rec.Sandbox)
}

// lastOf reports whether no other container lives in the record's sandbox.
func (r *Runtime) lastOf(ctx context.Context, rec *state.Container) (bool, error) {
	entries, err := r.Store.Containers()
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Container == nil && e.ID != rec.ID && r.inSandbox(ctx, e.ID, rec.Sandbox) {
			return false, nil
		}
		if e.Container == nil || e.ID == rec.ID || e.Container.Sandbox != rec.Sandbox {
			continue
		}
		if st, ok := r.derive(e.Container); ok && st != lifecycle.Stopped {
			return false, nil
		}
	}
	return true, nil
}

// endSandbox waits for the end of a sandbox that nobody needs any more, ends
// it by force where that takes too long, and removes its cgroup and folder. It
// is called with the sandbox's lock held.
func (r *Runtime) endSandbox(ctx context.Context, id string) error {
	if err := failpoint.Here(failpoint.DeleteSandbox); err != nil {
		return err
	}
	limit := r.Config.Runtime.TeardownTimeout.Std()
	if r.abandonKept(ctx, id) {
		limit = min(limit, r.Config.Runtime.KillTimeout.Std())
	}
	sb, err := r.sandboxToEnd(id)
	if err == nil {
		wait, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if sb.Monitor.Wait(wait) != nil {
			r.Log.WithField("sandbox", id).Warn("the monitor does not end: killing it")
		}
		err = errors.Join(r.killSandbox(ctx, id), r.leaveSandboxPlace(ctx, sb), r.leaveSpare(ctx, id))
	} else if errors.Is(err, state.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("end sandbox %s: %w", id, err)
	}
	if err := failpoint.Here(failpoint.DeleteFolder); err != nil {
		return err
	}
	return r.Store.RemoveSandbox(id)
}
