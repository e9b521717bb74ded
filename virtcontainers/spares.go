package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// spares is how many there should be: only clones are kept.
func (r *Runtime) spares() int {
	if r.Config.Hypervisor.Template == config.TemplateOff {
		return 0
	}
	return r.Config.Hypervisor.Spares
}

// takeSpare gives the sandbox a machine that waits for one, and asks for the claim in
// it; nil where there is none that fits. The sandbox's lock is held.
func (r *Runtime) takeSpare(ctx context.Context, p *plan) *asked {
	defer trace.Begin(ctx, trace.Phase, "take a spare").End()
	log := r.Log.WithField("container", p.ID)
	a, err := r.claimSpare(ctx, p)
	if err == nil {
		return a
	}
	if errors.Is(err, state.ErrNotExist) {
		log.Debug("there is no spare")
		return nil
	}
	log.WithError(err).Warn(uselessSpare)
	return nil
}

const uselessSpare = "the spare is of no use: a machine is started"

// claimSpare claims the first spare that fits and hands it over. It gives
// state.ErrNotExist where there is none.
func (r *Runtime) claimSpare(ctx context.Context, p *plan) (*asked, error) {
	ids, _, err := r.Store.Spares()
	if err != nil || len(ids) == 0 {
		return nil, errors.Join(err, state.ErrNotExist)
	}
	key, err := p.spareKey()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		sp, err := r.Store.Spare(id)
		if err != nil || spare.Of(sp) != key || !spare.Usable(sp) {
			continue
		}
		// Before the claim, so that its monitor sees the end of whoever claims it.
		conn, err := monitor.Dial(r.Store.SpareDir(id))
		if err != nil {
			continue
		}
		err = failpoint.Here(failpoint.SpareClaim)
		if err == nil {
			err = r.Store.ClaimSpare(id, p.sandbox)
		}
		if errors.Is(err, state.ErrNotExist) { // another one was faster
			conn.Close()
			continue
		}
		if err != nil { // it is not ours
			conn.Close()
			return nil, err
		}
		if err := r.handOver(ctx, p, sp, conn); err != nil {
			conn.Close()
			return nil, errors.Join(err, r.dropSpare(ctx, p.sandbox, sp))
		}
		return &asked{sandbox: p.sandbox, monitor: sp.Monitor, conn: conn, spare: sp}, nil
	}
	return nil, state.ErrNotExist
}

// handOver makes a claimed spare's processes those of the sandbox. Its monitor has
// heard of it then, and sees to its guest.
func (r *Runtime) handOver(ctx context.Context, p *plan, sp *state.Spare, conn *monitor.Conn) error {
	sb := &state.Sandbox{ID: p.sandbox, Monitor: sp.Monitor, VM: sp.VM, BootID: sp.BootID, Created: time.Now().UTC()}
	at, err := r.recordSandbox(ctx, p, sb)
	if err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.SpareHandOver); err != nil {
		return err
	}
	req := r.sandboxRequest(ctx, p, at)
	if b, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		req.CallerOOMScore, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.TeardownTimeout.Std())
	defer cancel()
	if _, err := conn.Call(ctx, req, nil); err != nil {
		return fmt.Errorf("hand over: %w", err)
	}
	return nil
}

// dropSpare ends what was claimed in vain, and makes room for another machine.
// The sandbox's lock is held.
func (r *Runtime) dropSpare(ctx context.Context, sandbox string, sp *state.Spare) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	sb, err := r.Store.Sandbox(sandbox)
	if err == nil {
		err = errors.Join(sb.Monitor.Kill(ctx), sb.VM.Kill(ctx), r.leavePlace(ctx, sandbox, sb.Cgroup), spare.RemoveCgroup(ctx, sp.Cgroup))
	} else if errors.Is(err, state.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, r.Store.RemoveSandbox(sandbox))
}

// leaveSpare removes the cgroup that the machine of a sandbox had as a spare, which
// its monitor removes if it is not killed before.
func (r *Runtime) leaveSpare(ctx context.Context, sandbox string) error {
	sp, err := r.Store.SpareOf(sandbox)
	if err != nil {
		return nil // it was none, or nobody can tell: doctor finds cgroups by their marks
	}
	return spare.RemoveCgroup(ctx, sp.Cgroup)
}

// Spare describes a spare.
type Spare struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	Monitor  int       `json:"monitor"` // pid
	VM       int       `json:"vm"`      // pid; 0 until it runs
	Template string    `json:"template"`
	// State is "ready"; "starting"; "dead" for what the next filler removes; "other"
	// where it waits for another configuration or other surroundings; or "failed":
	// then there is none, and Failure says why.
	State   string        `json:"state"`
	Failure *SpareFailure `json:"failure,omitempty"`
}

// SpareFailure says why there are no spares, after Count failures in a row, and
// from when on a create tries again.
type SpareFailure struct {
	Error string    `json:"error"`
	Count int       `json:"count"`
	Retry time.Time `json:"retry"`
}

// Spares describes the spares of the root, and the last failure to make some.
func (r *Runtime) Spares() ([]Spare, error) {
	ids, _, err := r.Store.Spares()
	if err != nil {
		return nil, err
	}
	all := make([]Spare, 0, len(ids)) // an array in JSON, never null
	failure, err := r.Store.SpareFailure()
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		return nil, err
	}
	if len(ids) == 0 && failure == nil {
		return all, nil
	}
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		sp, err := r.Store.Spare(id)
		if errors.Is(err, state.ErrNotExist) {
			continue // claimed meanwhile, or only begun
		}
		if err != nil {
			return nil, err
		}
		s := Spare{ID: id, Created: sp.Created, Monitor: sp.Monitor.Pid, VM: sp.VM.Pid, Template: sp.Template}
		switch {
		case !spare.Lives(sp):
			s.State = "dead"
		case !sp.Ready:
			s.State = "starting"
		case spare.Of(sp) != key:
			s.State = "other"
		default:
			s.State = "ready"
		}
		all = append(all, s)
	}
	if failure != nil && failure.Machine == key.Machine {
		all = append(all, Spare{
			Created: failure.Time, State: "failed",
			Failure: &SpareFailure{Error: failure.Error, Count: failure.Count, Retry: failure.Retry()},
		})
	}
	return all, nil
}
