package fault

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// held has one command wait at a failpoint while another one runs, and then go
// on. It gives what became of the first one.
func (w *world) held(point failpoint.Name, first []string, other func()) *testenv.Result {
	w.Helper()
	g := w.newGate()
	over := make(chan struct{})
	var res *testenv.Result
	armed := w.armed(string(point) + "=" + g.pause())
	go func() {
		defer close(over)
		res = armed.call(first...)
	}()
	p := g.wait(over)
	if p == nil {
		w.Fatalf("nobody came by %s", point)
	}
	other()
	p.let("go")
	<-over
	return res
}

// TestRaces has two commands meet at a point, one or the other way.
func TestRaces(t *testing.T) {
	warm(t)
	t.Run("kill against start", func(t *testing.T) {
		for _, point := range []failpoint.Name{failpoint.StartAsk, failpoint.StartRecord, failpoint.StartHooks} {
			w := newWorld(t)
			c := w.Container(nil, testenv.Args("sleep", "1000"))
			res := w.held(point, []string{"start", c.ID}, func() {
				if point == failpoint.StartHooks { // it runs, and its start goes on
					w.Fails("cannot start an already running container", "start", c.ID)
					w.Fails("container with given ID already exists", "create", "--bundle", c.Bundle.Dir, c.ID)
					w.Fails("cannot delete container "+c.ID+" that is not stopped: running", "delete", c.ID)
				}
				w.OK("kill", c.ID, "KILL")
			})
			t.Logf("%s: start gives %d", point, res.Code)
			if point == failpoint.StartAsk && res.Code == 0 {
				t.Error("a container that was killed has started")
			}
			w.IsStatus(c.ID, "stopped")
			c.Delete()
		}
	})
	t.Run("kill against self-exit", func(t *testing.T) {
		w := newWorld(t)
		c := w.Started(nil, testenv.Shell("until [ -e /go ]; do sleep 0.1; done; exit 7"))
		res := w.held(failpoint.KillAsk, []string{"kill", c.ID, "KILL"}, func() {
			if err := os.WriteFile(c.Bundle.Rootfs+"/go", nil, 0o644); err != nil {
				t.Fatal(err)
			}
			w.Equal("exit code", c.Wait(testenv.DefaultTimeout), 7)
		})
		if res.Code != 0 {
			t.Errorf("a kill that came too late, by a moment: %s", res)
		}
		w.IsStatus(c.ID, "stopped")
		c.Delete()
	})
	t.Run("TERM against KILL", func(t *testing.T) { // the TERM waits in the monitor, on its way to the guest
		w := newWorld(t)
		w.NeedVM()
		g := w.newGate()
		b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
		armed := w.armed(string(failpoint.MonitorSignal) + "@1=" + g.pause())
		if res := armed.call("create", "--bundle", b.Dir, id); res.Code != 0 {
			t.Fatal(res)
		}
		w.OK("start", id)
		over := make(chan struct{})
		go func() {
			defer close(over)
			if res := w.Do("kill", id, "TERM"); res.Code != 0 {
				t.Errorf("the TERM that was overtaken: %s", res)
			}
		}()
		p := g.wait(over)
		if p == nil {
			t.Fatal("the TERM did not come to the monitor")
		}
		w.OK("kill", id, "KILL")
		w.IsStatus(id, "stopped")
		p.let("go")
		<-over
		w.OK("delete", id)
	})
	t.Run("state right after a death", func(t *testing.T) { // the first answer counts
		for _, victim := range []string{"QEMU", "monitor", "shim"} {
			w := newWorld(t)
			c := w.Started(nil, testenv.Args("sleep", "1000"))
			for _, pid := range victims(victim) {
				w.Signal(pid, unix.SIGKILL)
			}
			if st := w.State(c.ID); st.Status != "stopped" || st.Pid != 0 {
				t.Errorf("%s has died: %s, pid %d", victim, st.Status, st.Pid)
			}
			c.DeleteForced()
		}
	})
	t.Run("two creates of one id", func(t *testing.T) {
		// The second one comes before the first has recorded anything, or after.
		for _, point := range []failpoint.Name{failpoint.CreateRecord, failpoint.CreateHooks} {
			w := newWorld(t)
			b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
			second := make(chan *testenv.Result, 1)
			first := w.held(point, []string{"create", "--bundle", b.Dir, id}, func() {
				go func() { second <- w.Do("create", "--bundle", b.Dir, id) }()
				testenv.Eventually(w, testenv.DefaultTimeout, func() error {
					if n := strings.Count(w.Read(w.trace), "point "+string(failpoint.CreateBegin)+"\n"); n != 2 {
						return fmt.Errorf("%d of two are at their locks", n)
					}
					return nil
				})
			})
			if first.Code != 0 {
				t.Error(first)
			}
			w.FailedWith(<-second, 1, "container with given ID already exists")
			w.OK("delete", "--force", id)
		}
	})
	t.Run("exec against stop", func(t *testing.T) {
		w := newWorld(t)
		c := w.Started(nil, testenv.Args("sleep", "1000"))
		res := w.held(failpoint.ExecBriefShim, []string{"exec", "--detach", c.ID, "sleep", "1000"}, func() { w.OK("kill", c.ID, "KILL") })
		if res.Code != 255 {
			t.Errorf("exec in a container that has stopped: %s", res)
		}
		c.Delete()
		if err := w.quiet(); err != nil {
			t.Error(err)
		}
	})
	t.Run("delete against delete", func(t *testing.T) {
		w := newWorld(t)
		c := w.Container(nil)
		second := make(chan *testenv.Result, 1)
		first := w.held(failpoint.DeleteShim, []string{"delete", c.ID}, func() {
			go func() { second <- w.Do("delete", c.ID) }()
		})
		if first.Code != 0 {
			t.Error(first)
		}
		w.FailedWith(<-second, 1, "does not exist")
		c.DeleteForced()
	})
	t.Run("many kills", func(t *testing.T) {
		w := newWorld(t)
		c := w.Started(nil, testenv.Args("sleep", "1000"))
		n := 20
		if everything() {
			n = 100
		}
		var wg sync.WaitGroup
		for range n {
			wg.Go(func() {
				if res := w.Do("kill", c.ID, "KILL"); res.Code != 0 && !strings.Contains(res.Stderr, "container not running") {
					t.Error(res)
				}
			})
		}
		wg.Wait()
		w.IsStatus(c.ID, "stopped")
		w.Equal("exit code", c.Wait(testenv.DefaultTimeout), 137)
		c.Delete()
	})
}

// TestStrayShim kills a create that has started its shim and told it nothing yet, and
// nobody else of it. The shim is gone when the container is.
func TestStrayShim(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	armed := w.armed("create.brief-monitor=sleep:1m", "shim.await=sleep:1m")
	res := armed.Call(testenv.Command{
		Args: []string{"create", "--bundle", b.Dir, id}, Null: true,
		Started: func(pid int) {
			testenv.Eventually(t, limit, func() error {
				if !w.passed("create.brief-monitor") || !w.passed("shim.await") {
					return fmt.Errorf("create and shim have not come so far")
				}
				return nil
			})
			w.Signal(pid, unix.SIGKILL)
		},
	})
	if res.Code != 137 || len(victims("shim")) != 1 {
		t.Fatalf("%s; the shims %v", res, victims("shim"))
	}
	w.OK("delete", "--force", id)
	if left := victims("shim"); len(left) != 0 {
		t.Errorf("left after delete --force: the shim %v", left)
	}
	w.isEmpty()
}
