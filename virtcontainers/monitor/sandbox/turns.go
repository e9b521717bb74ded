package sandbox

import (
	"context"
	"sync"
	"time"
)

// execsAtOnce is how many processes may be on their way into a guest at a time.
// More would not be there sooner, and all of them later.
const execsAtOnce = 8

// turns hands out a bounded number of places, first come, first served.
type turns struct {
	places chan struct{}
	moved  broadcast // whenever a place is given back
}

func newTurns(places int) *turns { return &turns{places: make(chan struct{}, places)} }

// take waits for a place until ctx ends, and gives it back with done. As long as
// others get theirs, so that it is only a matter of time, it calls tell, at most once in
// every; an error of that ends the waiting.
func (t *turns) take(ctx context.Context, every time.Duration, tell func() error) (done func(), err error) {
	select {
	case t.places <- struct{}{}:
		return t.giveBack, nil
	default:
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var telling sync.WaitGroup
	telling.Go(func() { t.report(ctx, every, tell, cancel) })
	defer telling.Wait()
	defer cancel(nil)
	select {
	case t.places <- struct{}{}:
		return t.giveBack, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (t *turns) giveBack() {
	<-t.places
	t.moved.tell()
}

// report calls tell after what moves, until ctx ends.
func (t *turns) report(ctx context.Context, every time.Duration, tell func() error, stop context.CancelCauseFunc) {
	moved, leave := t.moved.join()
	defer leave()
	for told := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-moved:
		}
		if time.Since(told) < every {
			continue
		}
		told = time.Now()
		if err := tell(); err != nil {
			stop(err)
			return
		}
	}
}
