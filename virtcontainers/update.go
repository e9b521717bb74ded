package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
)

// Update changes the limits of a container. resources is an OCI resources
// object in JSON; what it does not name, or names as zero, stays.
func (r *Runtime) Update(ctx context.Context, id string, resources []byte) error {
	if err := state.ValidateID(id); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	return r.operate(ctx, id, lifecycle.OpUpdate, func(ctx context.Context, rec *state.Container) error {
		return r.update(ctx, rec, resources)
	})
}

func (r *Runtime) update(ctx context.Context, rec *state.Container, resources []byte) error {
	kept, err := oci.UpdateResources(rec.Resources, resources)
	if err != nil {
		return err
	}
	guest, dropped, err := oci.GuestResources(kept)
	if err != nil {
		return err
	}
	for _, d := range dropped {
		r.Log.WithField("container", rec.ID).Debugf("%s is not applied: %s", d.Field, d.Reason)
	}
	err = r.setLimits(ctx, rec, kept, guest)
	if err != nil && len(rec.Resources) > 0 && !errors.Is(err, monitor.ErrGone) {
		// Some of them may have been set.
		err = errors.Join(err, r.restoreLimits(ctx, rec))
	}
	if err != nil {
		return fmt.Errorf("update container %s: %w", rec.ID, err)
	}
	rec.Resources = kept
	if err := r.Store.SaveContainer(rec); err != nil {
		return fmt.Errorf("record the limits of container %s: %w", rec.ID, err)
	}
	return nil
}

// setLimits sets limits, on the host and in the guest.
func (r *Runtime) setLimits(ctx context.Context, rec *state.Container, kept, guest []byte) error {
	var res specs.LinuxResources
	if err := json.Unmarshal(kept, &res); err != nil {
		return fmt.Errorf("recorded resources: %w", err)
	}
	_, role, err := oci.SandboxOf(rec.Annotations, rec.ID)
	if err != nil {
		return err
	}
	ownMachine := rec.Sandbox == rec.ID && role != oci.Sandbox
	if err := limitPlace(ctx, rec, cgroup.LimitsOf(&res, ownMachine)); err != nil {
		return err
	}
	rep, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpUpdate, Spec: guest, Demand: size.Of(&res)})
	if err != nil {
		return err
	}
	r.notice(rep.Notices)
	return nil
}

// restoreLimits sets the recorded limits again, as far as there were any.
func (r *Runtime) restoreLimits(ctx context.Context, rec *state.Container) error {
	guest, _, err := oci.GuestResources(rec.Resources)
	if err != nil {
		return err
	}
	return r.setLimits(ctx, rec, rec.Resources, guest)
}
