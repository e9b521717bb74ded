package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// Kind is what kind of thing an orphan is.
type Kind string

const (
	OrphanMonitor Kind = "monitor"
	OrphanShim    Kind = "shim"
	OrphanVM      Kind = "VM"
	OrphanServer  Kind = "file server"
	OrphanMount   Kind = "mount"
	OrphanTap     Kind = "tap"
	OrphanCgroup  Kind = "cgroup"
	OrphanRecord  Kind = "record"
	OrphanFolder  Kind = "folder"
	OrphanLock    Kind = "lock"
	// OrphanOperation is the file of an operation.
	OrphanOperation Kind = "operation"
)

// Orphan is something of the runtime's that serves no container which lives,
// or could be deleted. There should never be one.
type Orphan struct {
	Kind Kind `json:"kind"`
	// Name is a pid, a path or the name of an interface.
	Name string `json:"name"`
	// Owner is the id of the container or sandbox that it was of; "" where that
	// cannot be known.
	Owner string `json:"owner,omitempty"`
	// Why says what makes it one.
	Why string `json:"why"`
	// Fixed says that it is gone now, Error why it is not.
	Fixed bool   `json:"fixed"`
	Error string `json:"error,omitempty"`

	fix func(context.Context) error // nil: not to be repaired by a program
}

// Doctor looks for orphans of the runtime's root, and of none where there is
// nothing to tell roots apart, and removes them if asked to. What lives is left
// alone: everything is looked at again, with nothing else under way with its owner,
// before it is touched, and what somebody is at work on is no orphan.
func (r *Runtime) Doctor(ctx context.Context, fix bool) ([]Orphan, error) {
	d := &doctor{r: r, live: make(map[string]bool)}
	if err := d.findLive(); err != nil {
		return nil, err
	}
	// Processes first: what they hold cannot be removed before.
	found := []Orphan{}
	for _, look := range []func(context.Context) ([]Orphan, error){
		d.processes, d.mounts, d.taps, d.records, d.folders, d.spares, d.cgroups, d.leftovers,
	} {
		some, err := look(ctx)
		if err != nil {
			return nil, err
		}
		for i := range some {
			if fix {
				d.repair(ctx, &some[i])
			}
		}
		found = append(found, some...)
	}
	return found, nil
}

// doctor is one examination.
type doctor struct {
	r *Runtime
	// live are the ids of containers and sandboxes that live or are being worked
	// on.
	live map[string]bool
	// monitors are those of the root by the id that each was started with.
	monitors map[string]state.Process
}

func (d *doctor) repair(ctx context.Context, o *Orphan) {
	if o.fix == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	if err := o.fix(ctx); err != nil {
		o.Error = err.Error()
		return
	}
	o.Fixed = true
}

// findLive fills live.
func (d *doctor) findLive() error {
	entries, err := d.r.Store.Containers()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Container == nil {
			continue
		}
		if st, ok := d.r.derive(e.Container); ok && st != lifecycle.Stopped {
			d.live[e.ID], d.live[e.Container.Sandbox] = true, true
		}
	}
	ids, err := d.r.Store.Sandboxes()
	if err != nil {
		return err
	}
	for _, id := range ids {
		// Also one that is kept for its request: its monitor sees to its end.
		if d.r.monitorAlive(id) {
			d.live[id] = true
		}
	}
	return nil
}

// alone runs f unless something is under way with an id: whoever is at work may
// have just made what looks like an orphan.
func (d *doctor) alone(id string, f func() error) error {
	if state.ValidateID(id) != nil {
		return f() // nobody can work under it
	}
	o, err := d.r.Store.TryBegin(id, lifecycle.OpCleanup)
	if err != nil {
		return err
	}
	if o == nil {
		return fmt.Errorf("%s is under way", d.r.Store.UnderWay(id))
	}
	defer o.End()
	return f()
}

// busy reports whether somebody works under an id, or something lives there.
func (d *doctor) busy(id string) bool {
	if d.live[id] {
		return true
	}
	if state.ValidateID(id) != nil {
		return false
	}
	o, err := d.r.Store.TryBegin(id, lifecycle.OpCleanup)
	if err != nil || o == nil {
		return true
	}
	o.End()
	// It may have been made since findLive.
	if rec, err := d.r.Store.Container(id); err == nil {
		st, ok := d.r.derive(rec)
		return ok && st != lifecycle.Stopped
	}
	return d.r.monitorAlive(id)
}

// records looks for containers that exist no more, or cannot be understood.
func (d *doctor) records(context.Context) ([]Orphan, error) {
	entries, err := d.r.Store.Containers()
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, e := range entries {
		o := Orphan{Kind: OrphanRecord, Name: filepath.Join(d.r.Store.Root(), "containers", e.ID), Owner: e.ID}
		switch {
		case errors.Is(e.Err, state.ErrFutureVersion):
			o.Why = e.Err.Error() // a later version of the runtime knows what to do
			found = append(found, o)
			continue
		case errors.Is(e.Err, state.ErrCorrupt):
			o.Why = e.Err.Error()
			o.fix = func(ctx context.Context) error { return d.r.Delete(ctx, e.ID, true) }
		case e.Err != nil:
			return nil, e.Err
		default:
			if _, ok := d.r.derive(e.Container); ok || !d.forgotten(e.ID) {
				continue
			}
			o.Why = "its create was killed, and nobody has come back for it"
			o.fix = func(ctx context.Context) error {
				return d.alone(e.ID, func() error { return d.r.clean(ctx, e.Container) })
			}
		}
		if !d.busy(e.ID) || e.Err != nil {
			found = append(found, o)
		}
	}
	return found, nil
}

// forgotten reports whether what a killed create has left under an id is not
// kept for the same one either.
func (d *doctor) forgotten(id string) bool {
	_, err := d.r.Store.Unclaimed(id)
	return errors.Is(err, state.ErrNotExist) || d.r.expired(id)
}

// folders looks for what is left of sandboxes without a container.
func (d *doctor) folders(context.Context) ([]Orphan, error) {
	entries, err := d.r.Store.Containers()
	if err != nil {
		return nil, err
	}
	used := make(map[string]bool)
	for _, e := range entries {
		used[e.ID] = true // also one that cannot be read
		if e.Container != nil {
			used[e.Container.Sandbox] = true
		}
	}
	ids, err := d.r.Store.Sandboxes()
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, id := range ids {
		if _, err := d.r.Store.Sandbox(id); errors.Is(err, state.ErrCorrupt) || errors.Is(err, state.ErrFutureVersion) {
			found = append(found, Orphan{ // its container can be deleted all the same
				Kind: OrphanRecord, Name: filepath.Join(d.r.Store.SandboxDir(id), "sandbox.json"), Owner: id, Why: err.Error(),
			})
		}
		if used[id] || d.busy(id) {
			continue
		}
		found = append(found, Orphan{
			Kind: OrphanFolder, Name: d.r.Store.SandboxDir(id), Owner: id,
			Why: "a sandbox without a monitor and without a container",
			fix: func(ctx context.Context) error {
				return d.alone(id, func() error { return d.r.endIfLast(ctx, &state.Container{ID: id, Sandbox: id}) })
			},
		})
	}
	unclaimed, err := d.r.Store.UnclaimedIDs()
	if err != nil {
		return nil, err
	}
	for _, id := range unclaimed {
		if used[id] || slices.Contains(ids, id) || d.busy(id) || d.r.roomKept(id) {
			continue
		}
		found = append(found, Orphan{
			Kind: OrphanFolder, Name: filepath.Join(d.r.Store.Root(), "unclaimed", id), Owner: id,
			Why: "there is nothing to claim",
			fix: func(context.Context) error { return d.alone(id, func() error { return d.r.Store.RemoveUnclaimed(id) }) },
		})
	}
	return found, nil
}

// spares looks for spares that nobody can use any more. What is being made or
// ended is not looked at.
func (d *doctor) spares(context.Context) ([]Orphan, error) {
	ids, ended, err := d.r.Store.Spares()
	if err != nil || len(ids)+len(ended) == 0 {
		return nil, err
	}
	lock, err := d.r.Store.TryLockSpares()
	if lock == nil || err != nil {
		return nil, err
	}
	defer lock.Close()
	var found []Orphan
	for _, id := range append(ids, ended...) {
		if d.lives(id) {
			continue
		}
		found = append(found, Orphan{
			Kind: OrphanFolder, Name: d.r.Store.SpareDir(id), Owner: id, Why: "a spare machine that does not work",
			fix: func(ctx context.Context) error {
				lock, err := d.r.Store.LockSpares(ctx)
				if err != nil {
					return err
				}
				defer lock.Close()
				return spare.End(ctx, d.r.Store, id)
			},
		})
	}
	return found, nil
}

// lives reports whether a spare is of use, or sees to its own end.
func (d *doctor) lives(id string) bool {
	sp, err := d.r.Store.Spare(id)
	return errors.Is(err, state.ErrNotExist) && !d.folder(id) || err == nil && (spare.Lives(sp) || sp.Monitor.Alive())
}

// folder reports whether a spare has one still, or again.
func (d *doctor) folder(id string) bool {
	_, err := os.Lstat(d.r.Store.SpareDir(id))
	return err == nil
}

// leftovers looks for files of operations and locks whose holders were killed.
func (d *doctor) leftovers(context.Context) ([]Orphan, error) {
	left, err := d.r.Store.Leftovers()
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, l := range left {
		o := Orphan{
			Kind: OrphanLock, Name: l.Path, Owner: l.ID, Why: "nobody holds it: its holder was killed",
			fix: func(context.Context) error { return l.Remove() },
		}
		if l.Operation {
			o.Kind, o.Why = OrphanOperation, "it was killed"
		}
		found = append(found, o)
	}
	return found, nil
}

func pidName(pid int) string { return fmt.Sprintf("%d", pid) }
