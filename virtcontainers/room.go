package virtcontainers

import (
	"context"
	"errors"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// giveUpRoom has the monitor of a sandbox keep no room for a container that has not
// been made. One that does not answer lets go of it when its time is over.
func (r *Runtime) giveUpRoom(ctx context.Context, sandbox, id string) {
	if sandbox == id {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.KillTimeout.Std())
	defer cancel()
	conn, err := monitor.Dial(r.Store.SandboxDir(sandbox))
	if err != nil {
		return // it has ended, and the machine with it
	}
	defer conn.Close()
	if _, err := conn.Call(ctx, &monitor.Request{Op: monitor.OpAbandon, Container: id}, nil); err != nil && !notThere(err) {
		r.Log.WithError(err).WithField("container", id).WithField("sandbox", sandbox).Warn("give up room in the machine")
	}
}

// giveUpRecordedRoom is giveUpRoom for what the record of the id says is kept, but in
// one sandbox.
func (r *Runtime) giveUpRecordedRoom(ctx context.Context, id, except string) {
	if u, err := r.Store.Unclaimed(id); err == nil && u.Sandbox != "" && u.Sandbox != except {
		r.giveUpRoom(ctx, u.Sandbox, id)
	}
}

// forgetCreate removes the records of a create that has failed, but that of room
// which is kept for the same one. Room that an earlier create has left, and this one
// has not come to claim, is given up.
func (r *Runtime) forgetCreate(ctx context.Context, p *plan) error {
	if p.claim == nil {
		r.giveUpRoom(ctx, p.sandbox, p.ID)
	}
	if !p.keepRoom {
		return r.forget(p.ID)
	}
	if u, err := r.Store.Unclaimed(p.ID); err == nil && u.Sandbox != "" {
		return r.Store.RemoveContainer(p.ID)
	}
	return r.forget(p.ID)
}

// roomKept reports whether the record of the id is one of room that is kept.
func (r *Runtime) roomKept(id string) bool {
	u, err := r.Store.Unclaimed(id)
	return err == nil && u.Sandbox != "" && !r.expired(id)
}

// cleanUnfinished removes what is on disk of a create whose room is kept: the record
// of that stays, and nothing else is needed.
func (r *Runtime) cleanUnfinished(ctx context.Context, id string) error {
	unfinished := func() (*state.Container, error) {
		if !r.roomKept(id) {
			return nil, nil
		}
		rec, err := r.Store.Container(id)
		if errors.Is(err, state.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if _, ok := r.derive(rec); ok {
			return nil, nil
		}
		return rec, nil
	}
	if rec, err := unfinished(); rec == nil || err != nil {
		return err
	}
	o, err := r.Store.TryBegin(id, lifecycle.OpCleanup)
	if o == nil || err != nil {
		return err // somebody is at it
	}
	defer o.End()
	rec, err := unfinished()
	if rec == nil || err != nil {
		return err
	}
	if err := r.cleanUp(ctx, rec); err != nil {
		return err
	}
	return r.Store.RemoveContainer(id)
}

// reapRooms removes the records of room in a sandbox, if that has ended.
func (r *Runtime) reapRooms(ctx context.Context, sandbox string) {
	ids, err := r.Store.UnclaimedIDs()
	if err != nil {
		r.Log.WithError(err).Warn("remove the records of room in a machine that has ended")
	}
	for _, id := range ids {
		u, err := r.Store.Unclaimed(id)
		if err != nil || u.Sandbox != sandbox {
			continue
		}
		if err := r.reap(ctx, id); err != nil {
			r.Log.WithError(err).WithField("container", id).Warn("remove what nobody has claimed")
		}
	}
}
