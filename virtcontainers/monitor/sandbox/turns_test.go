package sandbox

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTurns(t *testing.T) {
	turns := newTurns(2)
	var now, most, told atomic.Int32
	var all sync.WaitGroup
	for range 100 {
		all.Go(func() {
			done, err := turns.take(t.Context(), 0, func() error { told.Add(1); return nil })
			if err != nil {
				t.Error(err)
				return
			}
			defer done()
			for n := now.Add(1); ; {
				if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
					break
				}
			}
			time.Sleep(time.Millisecond)
			now.Add(-1)
		})
	}
	all.Wait()
	if most.Load() != 2 {
		t.Errorf("%d had a place at once, of 2", most.Load())
	}
	if told.Load() == 0 {
		t.Error("nobody who waited was told that others got their turn")
	}
}

// TestTurnsUntil is about what ends the waiting for a place.
func TestTurnsUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		turns := newTurns(2)
		var held []func()
		for range cap(turns.places) {
			done, err := turns.take(t.Context(), 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, done)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		type result struct {
			done func()
			err  error
		}
		wait := func(ctx context.Context, tell func() error) <-chan result {
			ended := make(chan result, 1)
			go func() {
				done, err := turns.take(ctx, 0, tell)
				ended <- result{done, err}
			}()
			synctest.Wait()
			return ended
		}
		nothing := func() error { return nil }

		given := wait(ctx, nothing)
		cancel(gone)
		if r := <-given; !errors.Is(r.err, gone) {
			t.Errorf("a context that ends gives %v", r.err)
		}

		// The first in the queue gets the place, and the other one cannot be told.
		next := wait(t.Context(), nothing)
		untold := wait(t.Context(), func() error { return gone })
		held[0]()
		if r := <-next; r.err != nil {
			t.Errorf("a place that is free gives %v", r.err)
		} else {
			defer r.done()
		}
		if r := <-untold; !errors.Is(r.err, gone) {
			t.Errorf("one that cannot be told gives %v", r.err)
		}
		held[1]()
	})
}
