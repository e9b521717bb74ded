package virtcontainers

import (
	"context"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// A record that cannot be read is no reason to forget what it was about: the
// monitors know their containers, processes say on their command lines whose they
// are, and cgroups have an owner.

// killDamaged kills a container whose record cannot be read, in whichever sandbox it
// is. What a monitor does not end goes with the sandbox.
func (r *Runtime) killDamaged(ctx context.Context, id string) {
	sandboxes, err := r.Store.Sandboxes()
	if err != nil {
		r.Log.WithError(err).WithField("container", id).Warn("look for a container whose record is damaged")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.stopTimeout())
	defer cancel()
	for _, sandbox := range sandboxes {
		_, err := r.ask(ctx, &state.Container{ID: id, Sandbox: sandbox}, &monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)})
		if err == nil {
			return
		}
		if !notThere(err) {
			r.Log.WithError(err).WithField("container", id).Warn("kill a container whose record is damaged")
		}
	}
}

// inSandbox reports whether a container whose record cannot be read is in a sandbox.
func (r *Runtime) inSandbox(ctx context.Context, id, sandbox string) bool {
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.KillTimeout.Std())
	defer cancel()
	_, err := r.ask(ctx, &state.Container{ID: id, Sandbox: sandbox}, &monitor.Request{Op: monitor.OpProcesses})
	return err == nil
}

// leaveOwned removes the cgroups that an id has, by their owner.
func (r *Runtime) leaveOwned(ctx context.Context, id string) error {
	owned, err := cgroup.Owned()
	if err != nil {
		return err
	}
	cg := &cgroup.Cgroup{}
	for _, g := range owned {
		if g.Owner == state.Mark(r.Store.Root(), id) {
			cg.Groups = append(cg.Groups, cgroup.Group{Dir: g.Dir, Made: true})
		}
	}
	return cg.Remove(ctx)
}

// sandboxToEnd gives the record of a sandbox that is to end. Where that is damaged, it
// has what can be found of the processes.
func (r *Runtime) sandboxToEnd(id string) (*state.Sandbox, error) {
	sb, err := r.Store.Sandbox(id)
	if !errors.Is(err, state.ErrCorrupt) {
		return sb, err
	}
	r.Log.WithError(err).WithField("sandbox", id).Warn("ending a sandbox by what can be found of it")
	all, err := readProcesses()
	if err != nil {
		return nil, err
	}
	sb = &state.Sandbox{ID: id}
	for _, p := range all {
		if root, of := rootAndID(p.argv); p.is(MonitorCommand) && root == r.Store.Root() && of == id && p.sees(root) {
			sb.Monitor = p.Process
		}
	}
	// The arguments of one that was a spare tell its id as such.
	if sp, err := r.Store.SpareOf(id); err == nil {
		sb.Monitor = sp.Monitor
	}
	for _, p := range all { // the machine of a monitor that has died died with that
		isVM := slices.ContainsFunc(p.argv, func(a string) bool { return strings.Contains(a, guestPort) })
		if isVM && sb.Monitor.Pid != 0 && p.parent == sb.Monitor.Pid {
			sb.VM = p.Process
		}
	}
	return sb, nil
}

// leaveSandboxPlace removes the cgroup of a sandbox, if that has one of its own.
func (r *Runtime) leaveSandboxPlace(ctx context.Context, sb *state.Sandbox) error {
	if _, err := r.Store.Sandbox(sb.ID); !errors.Is(err, state.ErrCorrupt) {
		return r.leavePlace(ctx, sb.ID, sb.Cgroup)
	}
	if _, err := r.Store.Container(sb.ID); err == nil {
		return nil // what has this owner is the container's, which still has processes in it
	}
	return r.leaveOwned(ctx, sb.ID)
}
