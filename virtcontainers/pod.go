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
	"github.com/vc-runtime/vc-runtime/trace"
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
	var refused *asked
	for {
		a, err := r.enterSandbox(ctx, p, undo, refused)
		if a == nil || err != nil {
			return err
		}
		// Without the lock, as the guest may have to be waited for. The record of
		// this container keeps others from ending the sandbox.
		p.claim, err = r.awaitClaim(ctx, a)
		switch {
		case err == nil && a.spare == nil:
			p.room, p.key = p.key, "" // the machine is the pod's, and lives on without this container
			return nil
		case err == nil:
			return nil
		case a.spare != nil:
			r.Log.WithField("container", p.ID).WithError(err).Warn(uselessSpare)
		case !notThere(err):
			return err
		}
		refused = a
	}
}

// asked is a monitor that has been asked for a claim, and has not answered yet:
// that of a sandbox which is to be joined, or of a spare that becomes the sandbox.
type asked struct {
	sandbox string
	monitor state.Process
	conn    *monitor.Conn
	spare   *state.Spare // nil for one to be joined
}

// awaitClaim waits for the answer.
func (r *Runtime) awaitClaim(ctx context.Context, a *asked) (*monitor.Conn, error) {
	op, what := monitor.OpClaim, "join sandbox "+a.sandbox
	if a.spare != nil {
		op, what = monitor.OpSandbox, "hand over"
		limit, cancel := context.WithTimeout(ctx, r.Config.Runtime.TeardownTimeout.Std())
		defer cancel()
		ctx = limit
	}
	defer trace.Begin(ctx, trace.Call, "monitor "+string(op)).End()
	if _, err := a.conn.Answer(ctx, op); err != nil {
		a.conn.Close()
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return a.conn, nil
}

// enterSandbox is claimSandbox up to where a monitor has to be waited for, if it is
// not nil. refused is one that was of no use: it was ending, or was a spare that
// does not work.
func (r *Runtime) enterSandbox(ctx context.Context, p *plan, undo *cleanup, refused *asked) (*asked, error) {
	if err := step(ctx, failpoint.CreateLockSandbox); err != nil {
		return nil, err
	}
	lock, err := r.Store.LockSandbox(ctx, p.sandbox)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if refused != nil && refused.spare != nil && r.isOf(refused) {
		if err := r.dropSpare(ctx, p.sandbox, refused.spare); err != nil {
			return nil, err
		}
		p.claim, err = r.spawnMonitor(ctx, p)
		return nil, err
	}
	if p.role != oci.Single && p.adopted == nil {
		var a *asked
		err := error(monitor.ErrGone)
		if refused == nil || !r.isOf(refused) {
			a, err = r.join(ctx, p.sandbox, &monitor.Request{Op: monitor.OpClaim, Container: p.ID, Room: string(p.key)})
		}
		if err == nil || !notThere(err) {
			return a, err
		}
		if err := r.sandboxEnded(ctx, p); err != nil {
			return nil, err
		}
	}
	return r.startSandbox(ctx, p, undo)
}

// isOf reports whether a monitor is, or was, that of its sandbox: nobody has
// started another one since.
func (r *Runtime) isOf(a *asked) bool {
	sb, err := r.Store.Sandbox(a.sandbox)
	return err != nil || sb.Monitor == a.monitor
}

// startSandbox starts the sandbox, or goes on with one that was kept. Its lock is
// held.
func (r *Runtime) startSandbox(ctx context.Context, p *plan, undo *cleanup) (*asked, error) {
	undo.pushSandbox(func(ctx context.Context) error { return r.endIfLast(ctx, p.record) })
	if p.adopted != nil {
		return nil, r.enterAdopted(ctx, p)
	}
	if r.spares() > 0 {
		if a := r.takeSpare(ctx, p); a != nil {
			return a, nil
		}
	}
	claim, err := r.spawnMonitor(ctx, p)
	p.claim = claim
	return nil, err
}

// join asks a sandbox that runs to claim a container.
func (r *Runtime) join(ctx context.Context, sandbox string, req *monitor.Request) (*asked, error) {
	if err := step(ctx, failpoint.CreateJoin); err != nil {
		return nil, err
	}
	a := &asked{sandbox: sandbox}
	if sb, err := r.Store.Sandbox(sandbox); err == nil {
		a.monitor = sb.Monitor
	}
	var err error
	if a.conn, err = monitor.Dial(r.Store.SandboxDir(sandbox)); err != nil {
		return nil, err
	}
	req.Trace = trace.From(ctx).Path()
	_ = a.conn.Send(req, nil) // where it has gone the answer says so
	return a, nil
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
