package virtcontainers

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/stats"
)

// Stats gives the statistics of a container from its cgroup in the guest.
func (r *Runtime) Stats(ctx context.Context, id string) (*stats.Stats, error) {
	rec, err := r.watchable(ctx, id)
	if err != nil {
		return nil, err
	}
	return r.stats(ctx, rec)
}

// watchable gives the record of a container that has statistics.
func (r *Runtime) watchable(ctx context.Context, id string) (*state.Container, error) {
	rec, err := r.record(id)
	if err != nil {
		return nil, err
	}
	switch st, ok := r.reconcile(ctx, rec); {
	case !ok:
		return nil, state.ErrNotExist
	case st == lifecycle.Stopped || st == lifecycle.Creating:
		return nil, fmt.Errorf("container with id %s is not running", id) // runc's text
	}
	return rec, nil
}

func (r *Runtime) stats(ctx context.Context, rec *state.Container) (*stats.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	defer cancel()
	rep, err := r.ask(ctx, rec, &monitor.Request{Op: monitor.OpStats})
	if err != nil {
		return nil, fmt.Errorf("statistics of container %s: %w", rec.ID, err)
	}
	if rep.Stats == nil {
		return nil, fmt.Errorf("statistics of container %s: the monitor gave none", rec.ID)
	}
	return rep.Stats.Files.Stats(rep.Stats.Interfaces), nil
}

// Events calls each with the container's statistics after every interval, and
// at once with each OOM kill in it. It returns when the container has stopped,
// or with the error of each.
func (r *Runtime) Events(ctx context.Context, id string, interval time.Duration, each func(stats.Event) error) error {
	rec, err := r.watchable(ctx, id)
	if err != nil {
		return err
	}
	conn, err := monitor.Dial(r.Store.SandboxDir(rec.Sandbox))
	if err != nil {
		return fmt.Errorf("events of container %s: %w", id, err)
	}
	defer conn.Close()
	call, cancel := context.WithTimeout(ctx, r.Config.Runtime.CallTimeout.Std())
	_, err = conn.Call(call, &monitor.Request{Op: monitor.OpEvents, Container: id}, nil)
	cancel()
	if err != nil {
		return fmt.Errorf("events of container %s: %w", id, err)
	}
	kills := make(chan struct{})
	go func() { // ends with the connection
		defer close(kills)
		for {
			var rep monitor.Reply
			if _, err := conn.Receive(&rep); err != nil {
				return
			}
			if rep.OOM {
				select {
				case kills <- struct{}{}:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return r.relay(ctx, rec, interval, kills, each)
}

// relay is Events once it is connected.
func (r *Runtime) relay(ctx context.Context, rec *state.Container, interval time.Duration, kills <-chan struct{}, each func(stats.Event) error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		var e stats.Event
		select {
		case _, ok := <-kills:
			if !ok { // the container has stopped
				return nil
			}
			e = stats.Event{Type: "oom", ID: rec.ID}
		case <-tick.C:
			s, err := r.stats(ctx, rec)
			if errors.Is(err, monitor.ErrGone) || errors.Is(err, unix.ESRCH) {
				continue // it is ending: so will kills
			}
			if err != nil {
				r.Log.Error(err) // as runc: the next one may do
				continue
			}
			e = stats.Event{Type: "stats", ID: rec.ID, Data: s}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := each(e); err != nil {
			return fmt.Errorf("pass an event on: %w", err)
		}
	}
}
