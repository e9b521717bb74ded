package virtcontainers

import (
	"context"
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/hooks"
)

// runHooks runs the hooks of one kind that the container's record has; see
// package hooks for where each kind runs.
func (r *Runtime) runHooks(ctx context.Context, rec *state.Container, kind hooks.Kind, st lifecycle.Status) error {
	if rec.Hooks == nil {
		return nil
	}
	var all specs.Hooks
	if err := json.Unmarshal(rec.Hooks, &all); err != nil {
		return fmt.Errorf("record of container %s: hooks: %w", rec.ID, err)
	}
	list := map[hooks.Kind][]specs.Hook{
		//lint:ignore SA1019 callers such as docker still set it
		hooks.Prestart:        all.Prestart,
		hooks.CreateRuntime:   all.CreateRuntime,
		hooks.CreateContainer: all.CreateContainer,
		hooks.Poststart:       all.Poststart,
		hooks.Poststop:        all.Poststop,
	}[kind]
	out := specs.State{
		Version: rec.OCIVersion, ID: rec.ID, Status: specs.ContainerState(st),
		Bundle: rec.Bundle, Annotations: rec.Annotations,
	}
	if st != lifecycle.Stopped {
		out.Pid = rec.Shim.Pid
	}
	return hooks.Run(ctx, kind, list, out)
}

// runCreateHooks runs the hooks that belong to create, in the specification's
// order. The interfaces that they add are in the VM at start.
func (r *Runtime) runCreateHooks(ctx context.Context, rec *state.Container) error {
	for _, kind := range []hooks.Kind{hooks.Prestart, hooks.CreateRuntime, hooks.CreateContainer} {
		if err := r.runHooks(ctx, rec, kind, lifecycle.Creating); err != nil {
			return fmt.Errorf("unable to start container process: %w", err)
		}
	}
	return nil
}
