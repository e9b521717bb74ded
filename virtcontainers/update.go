package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
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
	lock, err := r.Store.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer lock.Release()
	rec, err := r.allowed(ctx, id, lifecycle.OpUpdate)
	if err != nil {
		return err
	}
	kept, err := oci.UpdateResources(rec.Resources, resources)
	if err != nil {
		return err
	}
	guest, dropped, err := oci.GuestResources(kept)
	if err != nil {
		return err
	}
	for _, d := range dropped {
		r.Log.WithField("container", id).Debugf("%s is not applied: %s", d.Field, d.Reason)
	}
	demand, err := demandOf(kept)
	if err != nil {
		return err
	}
	if err := r.setLimits(ctx, rec, guest, demand); err != nil {
		return fmt.Errorf("update container %s: %w", id, err)
	}
	rec.Resources = kept
	if err := r.Store.SaveContainer(rec); err != nil {
		return fmt.Errorf("record the limits of container %s: %w", id, err)
	}
	return nil
}

// setLimits has the guest apply limits. Where it can apply only some of them,
// those that the container had are set again, as far as it had any.
func (r *Runtime) setLimits(ctx context.Context, rec *state.Container, guest []byte, demand size.Demand) error {
	_, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpUpdate, Spec: guest, Demand: demand})
	if err == nil || errors.Is(err, monitor.ErrGone) || len(rec.Resources) == 0 {
		return err
	}
	old, _, oldErr := oci.GuestResources(rec.Resources)
	if oldErr == nil {
		demand, oldErr = demandOf(rec.Resources)
	}
	if oldErr == nil {
		_, oldErr = r.ask(ctx, rec, &monitor.Request{Op: monitor.OpUpdate, Spec: old, Demand: demand})
	}
	return errors.Join(err, oldErr)
}

// demandOf is what recorded resources demand of the virtual machine.
func demandOf(kept []byte) (size.Demand, error) {
	var res specs.LinuxResources
	if err := json.Unmarshal(kept, &res); err != nil {
		return size.Demand{}, fmt.Errorf("recorded resources: %w", err)
	}
	return size.Of(&res), nil
}
