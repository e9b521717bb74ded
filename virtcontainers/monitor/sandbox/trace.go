package sandbox

import (
	"context"
	"math"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// maxTraces is how many files a monitor traces into in its life.
const maxTraces = 16

// traced gives the context of a request: with the trace that it asks for, in
// a lane of its own. The file stays open for the rest of the monitor's life.
func (s *Sandbox) traced(ctx context.Context, req *monitor.Request) context.Context {
	if req.Trace == "" {
		return ctx
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.traces[req.Trace]
	if t == nil && len(s.traces) < maxTraces {
		var err error
		if t, err = trace.Open(req.Trace, "monitor of "+s.cfg.ID, ""); err != nil {
			s.log.WithError(err).Warn("trace") // no reason to fail the request
			return ctx
		}
		s.traces[req.Trace] = t
	}
	return trace.Lane(trace.With(ctx, t.About(req.Container)), string(req.Op))
}

func (s *Sandbox) closeTraces() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.traces {
		t.Close()
	}
}

// Bounds of what is taken over from a guest.
const (
	maxGuestSpans = 1000
	maxGuestLanes = 1 << 20
	maxGuestName  = 100 // bytes
)

// guestSpans adds what the agent has done since the last time to the context's
// trace. The guest's clock is related to the host's by the call itself: it is
// read half way through.
func (s *Sandbox) guestSpans(ctx context.Context, m *Machine) {
	t := trace.From(ctx)
	if t == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Config.Runtime.CallTimeout.Std())
	defer cancel()
	// One at a time, so that no span is taken twice.
	select {
	case s.spansTurn <- struct{}{}:
		defer func() { <-s.spansTurn }()
	case <-ctx.Done():
		return
	}
	// The first call pays for code that the guest has not run before: it is not
	// the one to measure with.
	if _, err := m.Guest.Spans(ctx, &api.SpansRequest{After: math.MaxUint64}); err != nil {
		s.log.WithError(err).Warn("trace: ask the agent for its spans")
		return
	}
	asked := trace.Now()
	rep, err := m.Guest.Spans(ctx, &api.SpansRequest{After: s.spansSeen})
	if err != nil {
		s.log.WithError(err).Warn("trace: ask the agent for its spans")
		return
	}
	answered := trace.Now()
	s.spansSeen = rep.GetLast()
	addGuestSpans(t, m.VM.Process().Pid, s.cfg.ID, m.started, (asked+answered)/2-rep.GetNow(), rep.GetSpans())
}

// addGuestSpans writes spans of a guest whose clock is offset behind the host's.
// What was before the machine's start is the template's past, and what the
// guest says of the future is not believed.
func addGuestSpans(t *trace.Tracer, pid int, sandbox string, started, offset int64, spans []*api.Span) {
	t.NameProcess(pid, trace.GuestName(sandbox))
	now := trace.Now()
	for _, sp := range spans[:min(len(spans), maxGuestSpans)] {
		begin, end := sp.GetBegin()+offset, sp.GetEnd()+offset
		if begin < started || end < begin || end > now {
			continue
		}
		kind := trace.Phase
		if sp.GetSpawn() {
			kind = trace.Spawn
		}
		name := sp.GetName()
		t.Add(pid, int(sp.GetLane()%maxGuestLanes), kind, name[:min(len(name), maxGuestName)], begin, end)
	}
}
