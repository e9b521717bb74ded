package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
)

// reapTimeout caps what a command does for sandboxes that are not its own.
const reapTimeout = 5 * time.Second

// key identifies the request that a plan is made of. It is "" for one whose
// sandbox is not worth keeping, and where something is missing: create will find
// that out and say so.
func (r *Runtime) key(p *plan) resourcecache.Key {
	if p.Image != nil {
		return ""
	}
	image, err := r.Config.Hypervisor.GuestImagePath(r.Exe)
	if err != nil {
		return ""
	}
	var errs [5]error
	req := resourcecache.Request{Spec: p.bundle.Text, Versions: make(map[string]string)}
	req.Bundle, errs[0] = filepath.EvalSymlinks(p.bundle.Dir)
	req.Versions["runtime"], errs[1] = versionOf(r.Exe)
	req.Versions["guest"], errs[2] = versionOf(filepath.Join(image, "manifest.json"))
	req.Settings, errs[3] = json.Marshal(settings{r.Config, p.SystemdCgroup})
	if p.netns != "" {
		req.Network, errs[4] = fileID(p.netns)
	}
	if errors.Join(errs[:]...) != nil {
		return ""
	}
	key, err := req.Key()
	if err != nil {
		return ""
	}
	return key
}

// settings are the runtime's flags and configuration.
type settings struct {
	Config        *config.Config
	SystemdCgroup bool
}

func fileID(path string) (resourcecache.FileID, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return resourcecache.FileID{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return resourcecache.FileID{Dev: st.Dev, Ino: st.Ino}, nil
}

// versionOf tells one content of a file from another without reading it.
func versionOf(path string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fmt.Sprintf("%d:%d %d %d.%d", st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec), nil
}

// adopt claims the sandbox of an earlier create whose caller has gone. It is
// false where there is none, or it was for another request.
func (r *Runtime) adopt(ctx context.Context, p *plan, rec *state.Container) bool {
	if p.key == "" || rec.Sandbox != p.sandbox {
		return false
	}
	if err := failpoint.Here(failpoint.CreateAdopt); err != nil {
		return false
	}
	a, err := r.join(ctx, p.sandbox, &monitor.Request{Op: monitor.OpClaim, Container: p.ID, Key: string(p.key)})
	var claim *monitor.Conn
	if err == nil {
		claim, err = r.awaitClaim(ctx, a)
	}
	if err != nil {
		if !errors.Is(err, unix.EKEYREJECTED) && !notThere(err) {
			r.Log.WithError(err).WithField("container", p.ID).Warn("adopt what an earlier create has left")
		}
		return false
	}
	// The monitor may not have seen yet that the machine has died.
	sb, err := r.Store.Sandbox(p.sandbox)
	if err == nil && sb.VM.Pid != 0 && (!sb.VM.Alive() || sb.VM.Ending()) {
		err = errors.New("its machine has died")
	}
	// The monitor has seen to the earlier shim, if that was in the record.
	err = errors.Join(err, rec.Shim.Kill(ctx))
	if err == nil && p.role == oci.Member { // the machine is not in there
		err = r.leavePlace(ctx, rec.ID, rec.Cgroup)
		rec.Cgroup = nil
	}
	if err != nil {
		r.Log.WithError(err).WithField("container", p.ID).Warn("what an earlier create has left is of no use")
		claim.Close()
		return false
	}
	p.claim, p.adopted = claim, rec
	return true
}

// enterAdopted moves the processes of an adopted sandbox into the cgroup, where
// the earlier create should not have come that far. Those of a pod that a member
// has started are in the sandbox's own.
func (r *Runtime) enterAdopted(ctx context.Context, p *plan) error {
	if p.role == oci.Member {
		return nil
	}
	sb, err := r.Store.Sandbox(p.sandbox)
	if err != nil {
		return err
	}
	for _, proc := range []state.Process{sb.Monitor, sb.VM} {
		if !proc.Alive() {
			continue
		}
		if err := p.place.enter(ctx, proc.Pid); err != nil {
			return err
		}
	}
	return nil
}

// abandon gives a claim up, so that nothing is kept but room, where it is to be.
func (r *Runtime) abandon(ctx context.Context, p *plan) error {
	if p.claim == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.KillTimeout.Std())
	defer cancel()
	req := &monitor.Request{Op: monitor.OpAbandon, Container: p.ID}
	if p.keepRoom {
		req.Room = string(p.room)
	}
	_, err := p.claim.Call(ctx, req, nil)
	p.claim.Close()
	p.unheard = err != nil
	if err != nil && !notThere(err) {
		r.Log.WithError(err).WithField("container", p.ID).Warn("give the claim up")
	}
	return nil // a monitor that does not answer is ended by the next step
}

// abandonKept has the monitor of a sandbox that is kept for nobody in
// particular end at once. It reports whether the monitor hangs, or is stopped: it
// lives and does not answer.
func (r *Runtime) abandonKept(ctx context.Context, sandbox string) (hangs bool) {
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.KillTimeout.Std())
	defer cancel()
	if err := failpoint.Here(failpoint.DeleteAbandon); err != nil {
		return false
	}
	conn, err := monitor.Dial(r.Store.SandboxDir(sandbox))
	if err != nil {
		return false
	}
	defer conn.Close()
	if _, err := conn.Call(ctx, &monitor.Request{Op: monitor.OpAbandon}, nil); err != nil && !notThere(err) {
		r.Log.WithError(err).WithField("sandbox", sandbox).Warn("give the sandbox up")
		return ctx.Err() != nil
	}
	return false
}

// Reap removes what is left of creates that nobody has come back for: sandboxes
// whose time is over, or that are of an earlier boot of the host; and empty files
// of a version before. Every command
// but state and kill, which wait for nothing, calls it first; there is next to
// nothing to do where there are none.
func (r *Runtime) Reap(ctx context.Context) {
	if err := r.Store.RemoveFormer(); err != nil {
		r.Log.WithError(err).Warn("remove what an earlier version has left")
	}
	ids, err := r.Store.UnclaimedIDs()
	if err != nil || len(ids) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	for _, id := range ids {
		if err := r.reap(ctx, id); err != nil {
			r.Log.WithError(err).WithField("container", id).Warn("remove what nobody has claimed")
		}
	}
}

func (r *Runtime) reap(ctx context.Context, id string) error {
	if !r.expired(id) {
		return r.cleanUnfinished(ctx, id)
	}
	o, err := r.Store.TryBegin(id, lifecycle.OpCleanup)
	if o == nil || err != nil {
		return err // somebody is at it
	}
	defer o.End()
	if !r.expired(id) {
		return nil // it has been adopted
	}
	rec, err := r.Store.Container(id)
	if errors.Is(err, state.ErrNotExist) {
		return r.Store.RemoveUnclaimed(id)
	}
	if err != nil {
		return err
	}
	if _, ok := r.derive(rec); ok {
		return r.Store.RemoveUnclaimed(id) // it was claimed after all
	}
	return r.clean(ctx, rec)
}

// expired reports whether what is kept under the id is to go. A record that
// cannot be read is nobody's, but for that of a later version of the runtime.
func (r *Runtime) expired(id string) bool {
	u, err := r.Store.Unclaimed(id)
	if err != nil {
		return !errors.Is(err, state.ErrNotExist) && !errors.Is(err, state.ErrFutureVersion)
	}
	if u.Sandbox != "" && !r.monitorAlive(u.Sandbox) {
		return true // the room has gone with the machine
	}
	boot, bootErr := state.BootID()
	since, err := state.SinceBoot()
	if bootErr != nil || err != nil {
		return false
	}
	return resourcecache.Expired(u.BootID, u.Until, resourcecache.Clock{Boot: boot, Since: since})
}
