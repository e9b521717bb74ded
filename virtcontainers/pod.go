package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
)

// planSandbox finds out which sandbox the container belongs to and what it
// shares there, and makes the guest's specification.
func (r *Runtime) planSandbox(p *plan) (err error) {
	if p.sandbox, p.role, err = oci.SandboxOf(p.bundle.Spec.Annotations, p.ID); err != nil {
		return err
	}
	if p.role == oci.Companion {
		p.role = oci.Member
		if _, err := r.Store.Container(p.sandbox); errors.Is(err, state.ErrNotExist) {
			p.role, p.sandbox = oci.Single, p.ID
		} else if err != nil {
			return err
		}
	}
	opts := oci.GuestOptions{ID: p.ID, Role: p.role, Notify: r.NotifySocket != ""}
	if p.role == oci.Member {
		if opts.PIDOf, err = r.pidNamespaceOf(p); err != nil {
			return err
		}
	}
	p.guest, err = p.bundle.Guest(opts)
	return err
}

// pidNamespaceOf finds the container of the pod whose pid namespace the bundle
// wants to join, "" where there is none. Callers know the namespace by the pid
// of that container's process, which is its shim.
func (r *Runtime) pidNamespaceOf(p *plan) (string, error) {
	path := oci.JoinedPIDNamespace(p.bundle.Spec)
	if path == "" {
		return "", nil
	}
	want, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("pid namespace: %w", err)
	}
	entries, err := r.Store.Containers()
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if e.Container == nil || e.Container.Sandbox != p.sandbox {
			continue
		}
		shim := e.Container.Shim
		have, err := os.Stat(filepath.Join("/proc", strconv.Itoa(shim.Pid), "ns/pid"))
		if err == nil && os.SameFile(want, have) && shim.Alive() {
			return e.ID, nil
		}
	}
	return "", nil
}

// claimSandbox starts the container's sandbox, or joins its pod's, and claims
// the container in it, unless it has been adopted already.
func (r *Runtime) claimSandbox(ctx context.Context, p *plan, undo *cleanup) error {
	// The claim goes first when things are undone: the monitor then ends by
	// itself, if this was the only one.
	defer func() {
		if p.claim != nil {
			undo.pushSandbox(func(ctx context.Context) error { return r.abandon(ctx, p) })
		}
	}()
	if err := step(ctx, failpoint.CreateLockSandbox); err != nil {
		return err
	}
	lock, err := r.Store.LockSandbox(ctx, p.sandbox)
	if err != nil {
		return err
	}
	defer lock.Release()
	if p.role != oci.Single && p.adopted == nil {
		p.claim, err = r.joinSandbox(ctx, p.sandbox, &monitor.Request{Op: monitor.OpClaim, Container: p.ID})
		if err == nil {
			p.key = "" // the machine is the pod's, and lives on without this container
		}
		if err == nil || !notThere(err) {
			return err
		}
		if err := r.sandboxEnded(ctx, p); err != nil {
			return err
		}
	}
	undo.pushSandbox(func(ctx context.Context) error { return r.endIfLast(ctx, p.record) })
	if p.adopted != nil {
		return r.enterAdopted(ctx, p)
	}
	if r.spares() > 0 {
		if p.claim = r.takeSpare(ctx, p); p.claim != nil {
			return nil
		}
	}
	p.claim, err = r.spawnMonitor(ctx, p)
	return err
}

// joinSandbox claims a container in a sandbox that runs.
func (r *Runtime) joinSandbox(ctx context.Context, sandbox string, req *monitor.Request) (*monitor.Conn, error) {
	if err := step(ctx, failpoint.CreateJoin); err != nil {
		return nil, err
	}
	conn, err := monitor.Dial(r.Store.SandboxDir(sandbox))
	if err != nil {
		return nil, err
	}
	if _, err := conn.Call(ctx, req, nil); err != nil {
		conn.Close()
		return nil, fmt.Errorf("join sandbox %s: %w", sandbox, err)
	}
	return conn, nil
}

// sandboxEnded makes room for a new start of a pod's sandbox. Its last
// container may have ended a moment ago, or been the only one ever and be
// created again. A container that stands for the pod takes it along for good.
func (r *Runtime) sandboxEnded(ctx context.Context, p *plan) error {
	if p.role == oci.Member {
		_, err := r.Store.Container(p.sandbox)
		if err == nil {
			return fmt.Errorf("join sandbox %s: it has ended: %w", p.sandbox, unix.ESRCH)
		}
		if !errors.Is(err, state.ErrNotExist) {
			return err
		}
	}
	return r.endSandbox(ctx, p.sandbox)
}
