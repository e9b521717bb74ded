package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
)

// place is a host cgroup that is being filled: that of a container, with its
// shim and file server, and the monitor and the VM where it lives as long as
// the sandbox; or that of a sandbox.
type place struct {
	cg     *cgroup.Cgroup // nil on a host without cgroups
	made   bool
	limits cgroup.Limits
	// save records the cgroup as it is now.
	save func(json.RawMessage) error
}

// newPlace decides on the container's cgroup and its limits and records it, before
// anything is made.
func (r *Runtime) newPlace(rec *state.Container, limits cgroup.Limits, undo *cleanup) (*place, error) {
	if rec.Cgroup != nil { // that of an earlier create, whose sandbox is in there
		cg, err := cgroup.Load(rec.Cgroup)
		if err != nil {
			return nil, err
		}
		undo.pushSandbox(cg.Remove)
		return &place{cg: cg, made: true}, nil
	}
	where, err := cgroup.Place(rec.CgroupsPath, rec.ID, rec.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	p, err := decidePlace(where, func(cg json.RawMessage) error {
		rec.Cgroup = cg
		return r.Store.SaveContainer(rec)
	})
	if err != nil {
		return nil, err
	}
	p.limits = limits
	if p.cg != nil {
		p.cg.SetOwner(state.Mark(r.Store.Root(), rec.ID))
		undo.pushSandbox(p.cg.Remove)
	}
	return p, nil
}

// sandboxPlace is newPlace for a sandbox without a container that lives as
// long: a cgroup cannot be removed with its container while the VM is in it.
func (r *Runtime) sandboxPlace(rec *state.Container, sb *state.Sandbox) (*place, error) {
	where, err := cgroup.PlaceSandbox(rec.CgroupsPath, sb.ID, rec.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	p, err := decidePlace(where, func(cg json.RawMessage) error {
		sb.Cgroup = cg
		return r.Store.SaveSandbox(sb)
	})
	if err == nil && p.cg != nil {
		p.cg.SetOwner(state.Mark(r.Store.Root(), sb.ID))
	}
	return p, err
}

func decidePlace(where cgroup.Placement, save func(json.RawMessage) error) (*place, error) {
	p := &place{save: save}
	var err error
	p.cg, err = cgroup.New(where)
	if errors.Is(err, cgroup.ErrNone) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	return p, p.record()
}

func (p *place) record() error {
	if err := failpoint.Here(failpoint.CreateRecordCgroup); err != nil {
		return err
	}
	cg, err := json.Marshal(p.cg)
	if err != nil {
		return fmt.Errorf("encode cgroup: %w", err)
	}
	return p.save(cg)
}

// enter moves a process into the cgroup, which is made for the first one. What
// that starts later is in there too.
func (p *place) enter(ctx context.Context, pid int) error {
	if err := step(ctx, failpoint.CreateEnterCgroup); err != nil {
		return err
	}
	switch {
	case p.cg == nil:
		return nil
	case p.made:
		return p.cg.Add(ctx, pid)
	}
	err := p.cg.Create(ctx, pid, p.limits)
	p.made = err == nil
	return errors.Join(err, p.record())
}

// leavePlace removes a cgroup whose processes have ended; record is that of a
// container or sandbox.
func (r *Runtime) leavePlace(ctx context.Context, id string, record json.RawMessage) error {
	if record == nil {
		return nil
	}
	cg, err := cgroup.Load(record)
	if err != nil {
		return err
	}
	err = cg.Remove(ctx)
	if errors.Is(err, cgroup.ErrNested) {
		// Somebody made cgroups below it: they are not ours to remove.
		r.Log.WithError(err).WithField("id", id).Warn("leave the cgroup")
		return nil
	}
	return err
}

// joinPlace moves a process into the cgroup of a container that exists.
func (r *Runtime) joinPlace(ctx context.Context, rec *state.Container, pid int) error {
	if err := failpoint.Here(failpoint.ExecCgroup); err != nil {
		return err
	}
	if rec.Cgroup == nil {
		return nil
	}
	cg, err := cgroup.Load(rec.Cgroup)
	if err != nil {
		return err
	}
	return cg.Add(ctx, pid)
}

// limitPlace sets limits of the cgroup of a container that exists.
func limitPlace(ctx context.Context, rec *state.Container, limits cgroup.Limits) error {
	if rec.Cgroup == nil {
		return nil
	}
	cg, err := cgroup.Load(rec.Cgroup)
	if err != nil {
		return err
	}
	return cg.Limit(ctx, limits)
}
