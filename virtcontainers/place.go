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

// place is the host cgroup of a container that is being created: its shim and
// file server live there, and the monitor and the VM where it is the
// sandbox's first.
type place struct {
	r    *Runtime
	rec  *state.Container
	cg   *cgroup.Cgroup // nil on a host without cgroups
	made bool
}

// newPlace decides on the cgroup and records it, before anything is made.
func (r *Runtime) newPlace(rec *state.Container, undo *cleanup) (*place, error) {
	where, err := cgroup.Place(rec.CgroupsPath, rec.ID, rec.SystemdCgroup)
	if err != nil {
		return nil, err
	}
	p := &place{r: r, rec: rec}
	p.cg, err = cgroup.New(where)
	if errors.Is(err, cgroup.ErrNone) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	undo.push(p.cg.Remove)
	return p, p.record()
}

func (p *place) record() (err error) {
	if err := failpoint.Here(failpoint.CreateRecordCgroup); err != nil {
		return err
	}
	if p.rec.Cgroup, err = json.Marshal(p.cg); err != nil {
		return fmt.Errorf("encode cgroup: %w", err)
	}
	return p.r.Store.SaveContainer(p.rec)
}

// enter moves a process into the cgroup, which is made for the first one. What
// that starts later is in there too.
func (p *place) enter(ctx context.Context, pid int) error {
	if err := failpoint.Here(failpoint.CreateEnterCgroup); err != nil {
		return err
	}
	switch {
	case p.cg == nil:
		return nil
	case p.made:
		return p.cg.Add(ctx, pid)
	}
	// The guest's cgroup enforces the limits: see package cgroup.
	err := p.cg.Create(ctx, pid, cgroup.Limits{})
	p.made = err == nil
	return errors.Join(err, p.record())
}

// leavePlace removes the cgroup of a container whose processes have ended.
func (r *Runtime) leavePlace(ctx context.Context, rec *state.Container) error {
	if rec.Cgroup == nil {
		return nil
	}
	cg, err := cgroup.Load(rec.Cgroup)
	if err != nil {
		return err
	}
	err = cg.Remove(ctx)
	if errors.Is(err, cgroup.ErrNested) {
		// Somebody made cgroups below it: they are not ours to remove.
		r.Log.WithError(err).WithField("container", rec.ID).Warn("leave the cgroup")
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
