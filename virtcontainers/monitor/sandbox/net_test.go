package sandbox

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Whoever waits for a turn that does not come gets an error when his time is over,
// and takes nothing from who has it: each of these ends, however long another one
// waits for the guest.
func TestNetworkTurn(t *testing.T) {
	const limit = time.Minute
	for name, wait := range map[string]struct {
		limit time.Duration
		of    func(context.Context, *attachment) error
	}{
		"sync":  {limit, func(ctx context.Context, a *attachment) error { return a.sync(ctx, nil, 1, 1) }},
		"leave": {networkTimeout, func(_ context.Context, a *attachment) error { return a.leave() }},
		"close": {networkTimeout, func(_ context.Context, a *attachment) error { return a.close() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &attachment{turn: make(chan struct{}, 1)}
				if err := a.begin(t.Context()); err != nil { // and the guest does not answer
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				begun := time.Now()
				err := wait.of(ctx, a)
				if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for another change of the interfaces") {
					t.Errorf("who has waited in vain gets %v", err)
				}
				if took := time.Since(begun); took != wait.limit {
					t.Errorf("it has waited for %s, expected %s", took, wait.limit)
				}
				if len(a.turn) != 1 {
					t.Error("the turn of another one was given back")
				}
				a.end()
				if err := a.close(); err != nil || len(a.turn) != 0 {
					t.Errorf("the next one: %v, %d have the turn", err, len(a.turn))
				}
			})
		})
	}
}

// TestNetworkTurnFailed: a change that fails gives its turn back.
func TestNetworkTurnFailed(t *testing.T) {
	a := &attachment{turn: make(chan struct{}, 1)}
	for range 2 {
		if err := a.sync(t.Context(), nil, -1, 1); err == nil || !strings.Contains(err.Error(), "network namespace") {
			t.Errorf("a process that there cannot be: %v", err)
		}
	}
	if len(a.turn) != 0 {
		t.Error("the turn is still taken")
	}
}

// silent is an agent that opens no stream.
type silent struct{ Guest }

func (silent) Resolver(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (silent) Forward(ctx context.Context, _ uint16) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestNetworkLimit: a guest that opens no stream keeps neither a turn nor a
// connection to its localhost for longer than a call may take.
func TestNetworkLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &attachment{limit: time.Minute}
		for name, open := range map[string]func() (net.Conn, error){
			"queries": func() (net.Conn, error) { return a.queries(t.Context(), silent{}) },
			"port":    func() (net.Conn, error) { return a.dial(t.Context(), silent{}, 80) },
		} {
			begun := time.Now()
			if _, err := open(); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != a.limit {
				t.Errorf("%s: %v after %s", name, err, time.Since(begun))
			}
		}
	})
}
