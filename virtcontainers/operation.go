package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

// Nobody waits for what is under way with a container where the answer is certain
// already: each verb looks at the status before it waits, and again when it is
// its turn.

// operate does an operation on a container whose status allows it. Its context
// ends when the container is deleted by force.
func (r *Runtime) operate(ctx context.Context, id string, op lifecycle.Op, do func(context.Context, *state.Container) error) error {
	if _, err := r.allowed(ctx, id, op); err != nil {
		return err
	}
	o, err := r.Store.Begin(ctx, id, op)
	if err != nil {
		return err
	}
	defer o.End()
	ctx, unwatch, err := o.Watch(ctx)
	if err != nil {
		return err
	}
	defer unwatch()
	rec, err := r.allowed(ctx, id, op)
	if err != nil {
		return err
	}
	return do(ctx, rec)
}

// beginCreate begins a create. It gives state.ErrExist at once where there is such
// a container, whatever else is under way with it. It waits for another create,
// which may fail and leave its machine to this one, and for the end of what goes.
func (r *Runtime) beginCreate(ctx context.Context, id string) (*state.Operation, error) {
	rec, err := r.Store.Container(id)
	switch {
	case errors.Is(err, state.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		st, ok := r.derive(rec)
		if ok && !r.undecided(rec, st) {
			return nil, state.ErrExist
		}
	}
	return r.Store.Begin(ctx, id, lifecycle.OpCreate)
}

// undecided reports whether what is under way decides if there is a container
// with the id.
func (r *Runtime) undecided(rec *state.Container, st lifecycle.Status) bool {
	switch r.Store.UnderWay(rec.ID).Op {
	case lifecycle.OpCreate, lifecycle.OpDelete, lifecycle.OpCleanup:
		return true
	}
	return st == lifecycle.Creating || st == lifecycle.Created && rec.Creator.Alive()
}

// beginDelete begins a delete that uses no force. It waits for nothing that goes on
// with a container which could not be deleted afterwards.
func (r *Runtime) beginDelete(ctx context.Context, id string) (*state.Operation, error) {
	rec, err := r.allowed(ctx, id, lifecycle.OpDelete)
	if err != nil {
		return nil, err
	}
	// Of a container that has been started nobody knows yet that it runs.
	if u := r.Store.UnderWay(id); u.Op == lifecycle.OpStart {
		if st, _ := r.derive(rec); st != lifecycle.Stopped {
			return nil, fmt.Errorf("cannot delete container %s that is not stopped: %s is under way", id, u)
		}
	}
	return r.Store.Begin(ctx, id, lifecycle.OpDelete)
}

// beginForced begins a delete that does not wait for what is under way, which may
// hang: engines delete a container whose create they have given up. That is asked
// to stop, and has teardown_timeout to undo what it has done; then its process is
// killed, and what it has left is cleaned up by the delete.
func (r *Runtime) beginForced(ctx context.Context, id string) (*state.Operation, error) {
	for {
		o, err := r.Store.TryBegin(id, lifecycle.OpDelete)
		if o != nil || err != nil {
			return o, err
		}
		u, err := r.Store.Evict(id)
		if err != nil {
			r.Log.WithError(err).WithField("container", id).Warn("ask the operation that goes on to stop")
		}
		wait, cancel := context.WithTimeout(ctx, r.Config.Runtime.TeardownTimeout.Std())
		o, err = r.Store.Begin(wait, id, lifecycle.OpDelete)
		cancel()
		if err == nil || ctx.Err() != nil {
			return o, err
		}
		r.Log.WithField("container", id).WithField("pid", u.Process.Pid).Warnf("%s does not stop: killing it", u)
		if err := u.Process.Kill(ctx); err != nil {
			return nil, fmt.Errorf("delete container %s: %w", id, err)
		}
	}
}
