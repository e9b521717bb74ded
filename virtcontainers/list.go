package virtcontainers

import (
	"context"

	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// List gives the state of every container, by id. A record that cannot be
// read is left out with a line in the log: the others still count.
func (r *Runtime) List(ctx context.Context) ([]State, error) {
	r.Reap(ctx)
	entries, err := r.Store.Containers()
	if err != nil {
		return nil, err
	}
	states := []State{}
	for _, e := range entries {
		if e.Err != nil {
			r.Log.WithError(e.Err).WithField("container", e.ID).Warn("read the record")
			continue
		}
		if st, ok := r.reconcile(ctx, e.Container); ok {
			s := stateOf(e.Container, st)
			s.Owner = "root" // whoever may run this
			states = append(states, *s)
		}
	}
	return states, nil
}

// Processes gives the host pids that stand for the container's processes: its
// shim's, and those of the exec'd processes' shims.
func (r *Runtime) Processes(ctx context.Context, id string) ([]int, error) {
	rec, err := r.allowed(ctx, id, lifecycle.OpPs)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	rep, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpProcesses})
	if err != nil {
		return nil, err
	}
	return rep.Pids, nil
}
