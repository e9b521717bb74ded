// Package trace writes down where the time of a command goes, in the Trace
// Event Format that Perfetto and chrome://tracing show. Every process of the
// runtime that takes part appends to the same file: the command that was given
// --trace, the monitor and the shim, and the monitor for the guest.
//
// A Tracer travels in a context. Without one nothing is done: Begin costs the
// look into the context, and allocates nothing.
package trace

import (
	"context"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Kind says what a span is.
type Kind string

const (
	// Command is a command as a whole.
	Command Kind = "command"
	// Phase is a part of the work of a process.
	Phase Kind = "phase"
	// Spawn is the start of a process: fork and exec, not its life.
	Spawn Kind = "spawn"
	// Call is a request to another process, until its answer.
	Call Kind = "call"
)

// mainLane is the lane of a process's first goroutine.
const mainLane = 1

// Tracer writes the spans of one process. A nil Tracer is off.
type Tracer struct {
	file    *file
	path    string
	pid     int    // as the host numbers it
	subject string // a container's id, or ""
	lanes   *atomic.Int64
}

// Open begins to write into the file at path, which is made where it is not
// there. process is what this one is called; subject is the container that it
// is about, or "".
func Open(path, process, subject string) (*Tracer, error) {
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	t := &Tracer{file: f, path: path, pid: hostPid(), subject: subject, lanes: new(atomic.Int64)}
	t.lanes.Store(mainLane)
	t.nameProcess(t.pid, process)
	return t, nil
}

// Close closes the file. Spans that end later are dropped.
func (t *Tracer) Close() error {
	if t == nil {
		return nil
	}
	return t.file.close()
}

// About gives a tracer of the same process and file for another container.
func (t *Tracer) About(subject string) *Tracer {
	if t == nil {
		return nil
	}
	other := *t
	other.subject = subject
	return &other
}

// Path is that of the file, to be told to other processes; "" when t is off.
func (t *Tracer) Path() string {
	if t == nil {
		return ""
	}
	return t.path
}

// Now is the time of spans: nanoseconds of CLOCK_MONOTONIC, which all
// processes of a host share.
func Now() int64 {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return ts.Nano()
}

// Add writes a span of another process, such as a guest's; lane tells apart what
// runs there at the same time. Times are those of Now.
func (t *Tracer) Add(pid, lane int, kind Kind, name string, begin, end int64) {
	if t == nil {
		return
	}
	t.file.write(t.event(pid, lane, kind, name, begin, end))
}

// NameProcess says what the process with the given pid is called.
func (t *Tracer) NameProcess(pid int, name string) {
	if t == nil {
		return
	}
	t.nameProcess(pid, name)
}

func (t *Tracer) event(pid, lane int, kind Kind, name string, begin, end int64) *Event {
	e := &Event{Name: name, Kind: kind, Type: complete, Time: micros(begin), Duration: micros(max(0, end-begin)), Pid: pid, Lane: lane}
	if t.subject != "" {
		e.Args = map[string]string{argSubject: t.subject}
	}
	return e
}

func (t *Tracer) nameProcess(pid int, name string) {
	t.file.write(&Event{Name: "process_name", Type: metadata, Pid: pid, Lane: mainLane, Args: map[string]string{argName: name}})
}

// key is that of the context's value.
type key struct{}

// place is where in a process spans are made.
type place struct {
	tracer *Tracer
	lane   int
}

// With gives a context whose spans t writes; nil writes none.
func With(ctx context.Context, t *Tracer) context.Context {
	if t == nil {
		return ctx
	}
	return context.WithValue(ctx, key{}, place{t, mainLane})
}

// From gives the context's tracer, or nil.
func From(ctx context.Context) *Tracer {
	p, _ := ctx.Value(key{}).(place)
	return p.tracer
}

// Lane gives a context for work that goes on beside that of ctx: its spans
// are shown in a row of their own.
func Lane(ctx context.Context, name string) context.Context {
	p, ok := ctx.Value(key{}).(place)
	if !ok {
		return ctx
	}
	p.lane = int(p.tracer.lanes.Add(1))
	p.tracer.file.write(&Event{Name: "thread_name", Type: metadata, Pid: p.tracer.pid, Lane: p.lane, Args: map[string]string{argName: name}})
	return context.WithValue(ctx, key{}, p)
}

// Span is something that has begun. The zero Span is nothing.
type Span struct {
	place
	kind  Kind
	name  string
	begin int64
}

// Begin begins a span. It is written when it ends.
func Begin(ctx context.Context, kind Kind, name string) Span {
	p, ok := ctx.Value(key{}).(place)
	if !ok {
		return Span{}
	}
	return Span{place: p, kind: kind, name: name, begin: Now()}
}

// End ends the span.
func (s Span) End() {
	if s.tracer == nil {
		return
	}
	s.tracer.Add(s.tracer.pid, s.lane, s.kind, s.name, s.begin, Now())
}
