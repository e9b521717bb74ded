package integration

import (
	"reflect"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
	"github.com/vc-runtime/vc-runtime/trace"
)

// TestTrace follows a container through all processes, on one timeline.
func TestTrace(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	b := e.Bundle(testenv.Args("sleep", "1000"))
	path, id := e.Path("trace.json"), e.ID()
	pidFile := e.Path("pid")
	res := e.Call(testenv.Command{Args: []string{"--trace", path, "create", "--bundle", b.Dir, "--pid-file", pidFile, id}, Null: true})
	if res.Code != 0 {
		t.Fatal(res)
	}
	created, err := trace.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	names := processNames(created)
	nest(t, created, names,
		place{"vc-runtime create", "create"},
		place{"shim of " + id, "monitor create"},
		place{"monitor of " + id, "create"},
		place{"monitor of " + id, "agent CreateContainer"},
		place{trace.GuestName(id), "CreateContainer"},
		place{trace.GuestName(id), "crun create"},
	)
	e.OK("--trace", path, "start", id)
	traceExec(t, e, path, id)
	e.OK("--trace", path, "kill", id, "KILL")
	e.OK("--trace", path, "delete", "--force", id)
	summary := e.OK("trace", "summary", path).Stdout
	for _, want := range []string{"create " + id + ": ", "start " + id + ": ", "kill " + id + ": ", "delete " + id + ": ",
		"exec " + id + ": ", "processes started: ", "in the guest 1", "start QEMU", "start the file server", "qmp device_add", "shim 1"} {
		if !strings.Contains(summary, want) {
			t.Errorf("%q is not in the summary:\n%s", want, summary)
		}
	}
	e.Fails("something else than a trace", "--trace", b.Dir+"/config.json", "state", id)
}

// traceExec traces an exec from the command to the end of its output.
func traceExec(t *testing.T, e *testenv.Env, path, id string) {
	t.Helper()
	if out := e.OK("--trace", path, "exec", id, "echo", "hello").Stdout; out != "hello\n" {
		t.Errorf("output %q", out)
	}
	events, err := trace.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	names := processNames(events)
	guest, monitor, command := trace.GuestName(id), "monitor of "+id, "vc-runtime exec"
	all := place{command, "exec"}
	nest(t, events, names, all, place{command, "monitor exec"}, place{monitor, "exec"}, place{monitor, "agent ExecProcess"},
		place{guest, "ExecProcess"}, place{guest, "crun exec"})
	nest(t, events, names, all, place{command, "connect the streams"}, place{command, "monitor stream"}, place{monitor, "open stdout"})
	nest(t, events, names, all, place{monitor, "wait for the process"})
	nest(t, events, names, all, place{monitor, "wait for the output"})
	nest(t, events, names, all, place{guest, "stdout"})
	nest(t, events, names, all, place{guest, "process e1"})
}

// place is a span: in which process it is and what it is called.
type place struct{ in, what string }

// nest looks whether each span lies within the one before it, whatever process
// they are in.
func nest(t *testing.T, events []trace.Event, names map[int]string, spans ...place) {
	t.Helper()
	outer := find(t, events, names, spans[0].in, spans[0].what)
	for _, p := range spans[1:] {
		inner := find(t, events, names, p.in, p.what)
		slack := clockError(events, inner)
		if inner.Time < outer.Time-slack || inner.Time+inner.Duration > outer.Time+outer.Duration+slack {
			t.Errorf("%s of %s is not within %s: %+v, %+v", p.what, p.in, outer.Name, inner, outer)
		}
		outer = inner
	}
}

// clockError is by how much a span of a guest may be off, in µs. Its clock is known
// to half of the time of the call that has read it, which is the last one before the
// span was written down; 50 ms more are for what the two clocks drift apart.
func clockError(events []trace.Event, span trace.Event) float64 {
	asked := 0.0
	for _, ev := range events {
		if reflect.DeepEqual(ev, span) {
			break
		}
		if ev.Type == "X" && ev.Name == "agent Spans" {
			asked = ev.Duration
		}
	}
	return asked/2 + 50_000
}

func processNames(events []trace.Event) map[int]string {
	names := map[int]string{}
	for _, ev := range events {
		if ev.Name == "process_name" {
			names[ev.Pid] = ev.Args["name"]
		}
	}
	return names
}

// find gives the span of a process, which must be there.
func find(t *testing.T, events []trace.Event, names map[int]string, in, what string) trace.Event {
	t.Helper()
	for _, ev := range events {
		if ev.Type == "X" && names[ev.Pid] == in && ev.Name == what {
			return ev
		}
	}
	var b strings.Builder
	if err := trace.Summary(&b, events); err != nil {
		t.Error(err)
	}
	t.Fatalf("no span %q of %q:\n%s", what, in, b.String())
	return trace.Event{}
}
