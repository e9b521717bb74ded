package integration

import (
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
	command := find(t, created, names, "vc-runtime create", "create")
	// What nests, in whatever process it is: the inner lies within the outer.
	nested := []struct{ in, what string }{
		{"shim of " + id, "monitor create"},
		{"monitor of " + id, "create"},
		{"monitor of " + id, "agent CreateContainer"},
		{trace.GuestName(id), "CreateContainer"},
		{trace.GuestName(id), "crun create"},
	}
	outer := command
	for _, n := range nested {
		inner := find(t, created, names, n.in, n.what)
		// The guest's clock is known to some milliseconds.
		const slack = 100_000.0 // µs
		if inner.Time < outer.Time-slack || inner.Time+inner.Duration > outer.Time+outer.Duration+slack {
			t.Errorf("%s of %s is not within %s: %+v, %+v", n.what, n.in, outer.Name, inner, outer)
		}
		outer = inner
	}
	e.OK("--trace", path, "start", id)
	e.OK("--trace", path, "kill", id, "KILL")
	e.OK("--trace", path, "delete", "--force", id)
	summary := e.OK("trace", "summary", path).Stdout
	for _, want := range []string{"create " + id + ": ", "start " + id + ": ", "kill " + id + ": ", "delete " + id + ": ",
		"processes started: ", "in the guest 1", "start QEMU", "start the file server", "qmp device_add", "shim 1"} {
		if !strings.Contains(summary, want) {
			t.Errorf("%q is not in the summary:\n%s", want, summary)
		}
	}
	e.Fails("something else than a trace", "--trace", b.Dir+"/config.json", "state", id)
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
