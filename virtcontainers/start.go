package virtcontainers

import (
	"context"
	"errors"
	"fmt"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/hooks"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Start lets the process of a created container exec. Where NotifySocket is
// set it returns when the container has said that it is ready, or has ended.
func (r *Runtime) Start(ctx context.Context, id string) error {
	ready, err := r.start(ctx, id)
	if err != nil {
		return err
	}
	return ready.pass(ctx, 0)
}

func (r *Runtime) start(ctx context.Context, id string) (*readiness, error) {
	if err := state.ValidateID(id); err != nil {
		return nil, err
	}
	r.Reap(ctx)
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	if err := failpoint.Here(failpoint.StartBegin); err != nil {
		return nil, err
	}
	var ready *readiness
	err := r.operate(ctx, id, lifecycle.OpStart, func(ctx context.Context, rec *state.Container) (err error) {
		ready, err = r.startContainer(ctx, rec)
		return err
	})
	return ready, err
}

// startContainer lets the process of a created container exec.
func (r *Runtime) startContainer(ctx context.Context, rec *state.Container) (*readiness, error) {
	if err := failpoint.Here(failpoint.StartAsk); err != nil {
		return nil, err
	}
	ready, err := r.readiness(rec)
	if err != nil {
		return nil, err
	}
	if _, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpStart}); err != nil {
		ready.close()
		return nil, fmt.Errorf("start container %s: %w", rec.ID, err)
	}
	// It runs. Where start fails now, the caller must not be left with a
	// container that does.
	if err := r.afterStart(ctx, rec); err != nil {
		ready.close()
		return nil, errors.Join(err, r.stopNow(context.WithoutCancel(ctx), rec))
	}
	return ready, nil
}

// afterStart records that the process runs, and runs the hooks that wait for it.
func (r *Runtime) afterStart(ctx context.Context, rec *state.Container) error {
	if err := failpoint.Here(failpoint.StartRecord); err != nil {
		return err
	}
	if err := r.setStatus(rec, lifecycle.Running); err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.StartHooks); err != nil {
		return err
	}
	if err := r.runHooks(ctx, rec, hooks.Poststart, lifecycle.Running); err != nil {
		return err
	}
	return failpoint.Here(failpoint.StartDone)
}

// Pause freezes all processes of a container.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	return r.freeze(ctx, id, lifecycle.OpPause, monitor.OpPause, lifecycle.Paused)
}

// Resume lets the processes of a paused container go on.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	return r.freeze(ctx, id, lifecycle.OpResume, monitor.OpResume, lifecycle.Running)
}

func (r *Runtime) freeze(ctx context.Context, id string, op lifecycle.Op, ask monitor.Op, to lifecycle.Status) error {
	if err := state.ValidateID(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	return r.operate(ctx, id, op, func(ctx context.Context, rec *state.Container) error {
		if _, err := r.ask(ctx, rec, &monitor.Request{Op: ask}); err != nil {
			return fmt.Errorf("%s container %s: %w", ask, id, err)
		}
		return r.setStatus(rec, to)
	})
}

// allowed gives the record of a container whose status allows the operation.
func (r *Runtime) allowed(ctx context.Context, id string, op lifecycle.Op) (*state.Container, error) {
	rec, err := r.record(id)
	if err != nil {
		return nil, err
	}
	st, ok := r.reconcile(ctx, rec)
	if !ok {
		return nil, state.ErrNotExist
	}
	if err := lifecycle.Allow(op, st, lifecycle.Options{ID: id}); err != nil {
		return nil, err
	}
	return rec, nil
}

// ask sends one request about a container to its sandbox's monitor.
func (r *Runtime) ask(ctx context.Context, rec *state.Container, req *monitor.Request) (*monitor.Reply, error) {
	conn, err := monitor.Dial(r.Store.SandboxDir(rec.Sandbox))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	req.Container = rec.ID
	return conn.Call(ctx, req, nil)
}

func (r *Runtime) setStatus(rec *state.Container, st lifecycle.Status) error {
	rec.Status = st
	if err := r.Store.SaveContainer(rec); err != nil {
		return fmt.Errorf("record container %s as %s: %w", rec.ID, st, err)
	}
	return nil
}
