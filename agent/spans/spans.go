// Package spans notes what the agent does and when, for a host that traces
// (--trace) to ask for. It is always on: a span costs two looks at the clock
// and a place in a ring of fixed size.
package spans

import (
	"context"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// size is how many spans are kept: a container's creation has about twenty.
const size = 256

// Log holds the latest spans.
type Log struct {
	mu    sync.Mutex
	ring  [size]span // guarded by mu
	last  uint64     // number of the latest span, from 1; guarded by mu
	lanes uint32     // guarded by mu
}

type span struct {
	name       string
	spawn      bool
	lane       uint32
	begin, end int64
}

// Now is the guest's CLOCK_MONOTONIC in nanoseconds.
func Now() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return ts.Nano()
}

// After gives the spans that have ended since the one with the given number,
// oldest first, and the number of the latest. Those that the ring has lost are
// not there.
func (l *Log) After(number uint64) ([]*api.Span, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number > l.last {
		number = l.last
	}
	if l.last-number > size {
		number = l.last - size
	}
	found := make([]*api.Span, 0, l.last-number)
	for n := number + 1; n <= l.last; n++ {
		s := &l.ring[n%size]
		found = append(found, &api.Span{Name: s.name, Spawn: s.spawn, Lane: s.lane, Begin: s.begin, End: s.end})
	}
	return found, l.last
}

func (l *Log) add(s span) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	l.ring[l.last%size] = s
}

// key is that of the context's value.
type key struct{}

type place struct {
	log  *Log
	lane uint32
}

// With gives a context whose spans go to l, in a lane of their own.
func With(ctx context.Context, l *Log) context.Context {
	if l == nil {
		return ctx
	}
	l.mu.Lock()
	l.lanes++
	p := place{l, l.lanes}
	l.mu.Unlock()
	return context.WithValue(ctx, key{}, p)
}

// Span is something that has begun.
type Span struct {
	place
	name  string
	spawn bool
	begin int64
}

// Begin begins a span; without a Log in ctx it is nothing.
func Begin(ctx context.Context, name string) Span {
	p, ok := ctx.Value(key{}).(place)
	if !ok {
		return Span{}
	}
	return Span{place: p, name: name, begin: Now()}
}

// Spawn is Begin for the run of a program.
func Spawn(ctx context.Context, name string) Span {
	s := Begin(ctx, name)
	s.spawn = true
	return s
}

// Since makes the span begin earlier: at the given time of Now.
func (s Span) Since(begin int64) Span {
	s.begin = begin
	return s
}

// End ends the span, which makes it known.
func (s Span) End() {
	if s.log == nil {
		return
	}
	s.log.add(span{s.name, s.spawn, s.lane, s.begin, Now()})
}
