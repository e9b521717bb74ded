package fault

import (
	"fmt"
	"os"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// patience is what delete --force gives whoever is at work on the container.
const patience = time.Second

// hung is a verb that waits at a failpoint.
type hung struct {
	*world
	verb  string
	point failpoint.Name
}

// TestHang has create, start or stop hang in the command or in the monitor,
// and everything get through that must: state, list, KILL, delete --force.
func TestHang(t *testing.T) {
	for i, h := range []hung{
		{nil, "create", failpoint.CreateRecord},
		{nil, "create", failpoint.CreateSpawnMonitor},
		{nil, "create", failpoint.CreateAwaitShim},
		{nil, "create", failpoint.CreateClaim},
		{nil, "create", failpoint.MonitorBooted},
		{nil, "create", failpoint.MonitorCreate},
		{nil, "create", failpoint.ShimMount},
		{nil, "start", failpoint.StartAsk},
		{nil, "start", failpoint.MonitorStart},
		{nil, "kill", failpoint.KillAsk},
		{nil, "delete", failpoint.DeleteShim},
	} {
		for _, frozen := range []bool{false, true} {
			if !everything() && frozen == (i%2 == 0) {
				continue
			}
			t.Run(fmt.Sprintf("%s/frozen=%t", h.point, frozen), func(t *testing.T) {
				h.world = newWorld(t)
				h.NeedVM()
				h.run(frozen)
			})
		}
	}
}

// run has the verb hang, and the other commands meet it. A frozen program does
// not go on when it is let: it has to be killed.
func (h *hung) run(frozen bool) {
	h.world = h.configured(testenv.Settings{"runtime.teardown_timeout": fmt.Sprintf("%q", patience)})
	g := h.newGate()
	b, id := h.Bundle(testenv.Args("sleep", "1000")), h.ID()
	armed := h.armed(string(h.point) + "=" + g.pause())
	over := make(chan struct{})
	var code int
	go func() {
		defer close(over)
		if h.verb == "create" {
			code = armed.call("create", "--bundle", b.Dir, id).Code
			return
		}
		if res := armed.call("create", "--bundle", b.Dir, id); res.Code != 0 {
			h.Error(res)
			return
		}
		args := map[string][]string{"start": {"start", id}, "kill": {"kill", id, "KILL"}, "delete": {"delete", "--force", id}}
		code = armed.call(args[h.verb]...).Code
	}()
	p := g.wait(over)
	if p == nil {
		h.Fatalf("nobody came by %s", h.point)
	}
	if frozen {
		h.Signal(p.pid, unix.SIGSTOP)
	}

	// None of these waits for who hangs, so their times have to do with the
	// load of the machine only.
	h.quick("list")
	if h.point != failpoint.CreateRecord { // else there is nothing yet
		h.quick("state", id)
	}
	if h.point != failpoint.CreateRecord {
		h.refused(b.Dir, id)
		if res := h.Do("kill", id, "KILL"); res.Code != 0 { // it is not in a machine yet, or has ended
			h.FailedWith(res, 1, "container not running")
		} else if res.Took > limit {
			h.Errorf("while %s hangs: %s", h.verb, res)
		}
	}
	h.meet(b.Dir, id)
	gone := make(chan *testenv.Result, 1)
	go func() { gone <- h.Do("delete", "--force", id) }()
	if res := <-gone; res.Code != 0 {
		h.Error(res)
	}
	p.let("go")
	unix.Kill(p.pid, unix.SIGCONT) // a kill has nothing that delete would have to end it for
	select {
	case <-over:
	case <-time.After(testenv.DefaultTimeout):
		h.Fatalf("%s goes on", h.verb)
	}
	if h.verb == "create" && code == 0 {
		h.Error("create has succeeded, although the container was deleted meanwhile")
	}
	h.isEmpty()
	testenv.Eventually(h, limit, h.quiet) // a frozen shim is killed by its reader's end
	if res := h.call("create", "--bundle", b.Dir, id); res.Code != 0 {
		h.Errorf("the same again: %s", res)
	}
	h.OK("delete", "--force", id)
}

// refused has commands meet what hangs that are refused, whatever comes of it.
func (h *hung) refused(bundle, id string) {
	h.Helper()
	want := map[string]string{}
	switch {
	case h.verb == "create" && h.point != failpoint.CreateClaim: // which has recorded that it is created
		want["start"] = "cannot start a container in the creating state"
		want["pause"] = "container not running or created: creating"
		want["resume"] = "container not paused"
		want["delete"] = "cannot delete container " + id + " that is not stopped: creating"
	case h.verb == "start":
		want["create"] = "container with given ID already exists"
		want["resume"] = "container not paused"
		want["delete"] = "cannot delete container " + id + " that is not stopped: its start (pid "
	}
	for verb, text := range want {
		args := []string{verb, id}
		if verb == "create" {
			args = []string{verb, "--bundle", bundle, id}
		}
		res := h.Do(args...)
		h.FailedWith(res, 1, text)
		if res.Took > limit {
			h.Errorf("while %s hangs: %s", h.verb, res)
		}
	}
}

// meet has commands wait for what hangs, that have to: they say at the end of
// their time what for.
func (h *hung) meet(bundle, id string) {
	h.Helper()
	short := h.configured(testenv.Settings{"runtime.create_timeout": `"1s"`, "runtime.call_timeout": `"1s"`})
	text := "container " + id + ": its " + h.verb + " (pid "
	switch h.point {
	case failpoint.CreateRecord, failpoint.CreateAwaitShim:
		short.FailedWith(short.Do("create", "--bundle", bundle, id), 1, text)
	case failpoint.CreateClaim:
		short.FailedWith(short.Do("delete", id), 1, text)
	}
}

// quick runs a command that waits for nobody.
func (h *hung) quick(args ...string) {
	h.Helper()
	if res := h.Do(args...); res.Code != 0 || res.Took > limit {
		h.Errorf("while %s hangs: %s", h.verb, res)
	}
}

func (w *world) configured(over testenv.Settings) *world {
	w.Helper()
	return &world{Env: w.Env.Configured(over), trace: w.trace}
}

// quiet gives an error while a process of the runtime lives.
func (w *world) quiet() error {
	for _, kind := range faults[2:] {
		if pids := victims(kind); len(pids) != 0 {
			return fmt.Errorf("%s %v lives", kind, pids)
		}
	}
	return nil
}

// TestDeleteDuringCreate is what podman and CRI-O do when they have lost their
// patience: create, which waits for a hook, gives up by itself.
func TestDeleteDuringCreate(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	hook := w.Write("hook", "#!/bin/sh\ntouch "+w.Path("ran")+"\nexec sleep 1000\n")
	if err := os.Chmod(hook, 0o755); err != nil {
		t.Fatal(err)
	}
	slow := func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: hook}}} }
	b, id := w.Bundle(testenv.Args("true"), slow), w.ID()
	created := make(chan *testenv.Result, 1)
	go func() { created <- w.call("create", "--bundle", b.Dir, id) }()
	testenv.Eventually(w, testenv.DefaultTimeout, func() error {
		_, err := os.Stat(w.Path("ran"))
		return err
	})
	w.IsStatus(id, "creating")
	w.OK("delete", "--force", id)
	w.FailedWith(<-created, 1, "the container is being deleted")
	w.isEmpty()
	w.Fails("does not exist", "state", id)
	if err := w.quiet(); err != nil {
		t.Error(err)
	}
	if err := b.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
}
