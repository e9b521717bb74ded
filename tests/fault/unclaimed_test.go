package fault

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// unclaimed is a create that was killed at a point, and its bundle.
type unclaimed struct {
	*world
	b  *testenv.Bundle
	id string
	vm int // pid of what was made
}

func (w *world) unclaimed(point string, options ...testenv.Option) *unclaimed {
	w.Helper()
	w.NeedVM()
	u := &unclaimed{world: w, id: w.ID()}
	u.b = w.Bundle(append([]testenv.Option{testenv.Shell("echo all of it; exit 3")}, options...)...)
	u.b.ID = u.id
	if res := w.armed(point+"=kill").call("create", "--bundle", u.b.Dir, u.id); res.Code != 137 {
		w.Fatal(res)
	}
	testenv.Eventually(w, testenv.DefaultTimeout, func() error {
		if n := len(victims("shim")) + len(victims("file server")); n != 0 {
			return fmt.Errorf("%d processes of the caller's live", n)
		}
		if len(victims("QEMU")) != 1 {
			return fmt.Errorf("machines: %v", victims("QEMU"))
		}
		return nil
	})
	u.vm = victims("QEMU")[0]
	return u
}

// again creates the container, with the machine that was kept or another one,
// and runs it to its end.
func (u *unclaimed) again(same bool) {
	u.Helper()
	c := u.CreateFrom(u.b, nil)
	if vm := victims("QEMU"); len(vm) != 1 || (vm[0] == u.vm) != same {
		u.Errorf("VM %d, and then %v; the same expected: %t", u.vm, vm, same)
	}
	c.Start()
	u.Equal("exit code", c.Wait(testenv.DefaultTimeout), 3)
	u.Equal("output", c.Stdout(), "all of it\n")
	c.Delete()
}

func (u *unclaimed) isInvisible() {
	u.Helper()
	u.Fails("does not exist", "state", u.id)
	u.Fails("does not exist", "start", u.id)
	u.Fails("does not exist", "kill", u.id, "KILL")
	u.Fails("does not exist", "delete", u.id)
	if res := u.OK("list", "--quiet"); strings.Contains(res.Stdout, u.id) {
		u.Errorf("it is listed: %s", res)
	}
}

// TestUnclaimed has the same request come again, wherever create was killed.
func TestUnclaimed(t *testing.T) {
	warm(t)
	for _, point := range []string{"create.await-shim", "create.hooks", "create.record-created", "create.claim"} {
		t.Run(point, func(t *testing.T) {
			u := newWorld(t).unclaimed(point)
			u.isInvisible()
			if err := u.b.Overlay.Cycle(); err != nil {
				t.Errorf("the rootfs of a caller who has gone: %v", err)
			}
			u.again(true) // though the rootfs is another mount now
		})
	}
	t.Run("adopted", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		c := u.CreateFrom(u.b, nil)
		if pid := u.SandboxPids(u.id).VM; pid != u.vm {
			t.Errorf("VM %d instead of %d", pid, u.vm)
		}
		c.Start()
		u.Equal("exit code", c.Wait(testenv.DefaultTimeout), 3)
		u.Equal("output", c.Stdout(), "all of it\n")
		c.Delete()
	})
	t.Run("terminal", func(t *testing.T) {
		w := newWorld(t)
		u := &unclaimed{world: w, id: w.ID(), b: w.Bundle(testenv.Shell("tty; exit 3"), testenv.Terminal(80, 24))}
		u.b.ID = u.id
		first := w.NewConsole()
		defer first.Close()
		if res := w.armed("create.hooks=kill").call("create", "--bundle", u.b.Dir, "--console-socket", first.Path, u.id); res.Code != 137 {
			t.Fatal(res)
		}
		u.vm = u.SandboxPids(u.id).VM
		c := u.CreateFrom(u.b, nil)
		u.Equal("VM", u.SandboxPids(u.id).VM, u.vm)
		c.Start()
		u.Equal("exit code", c.Wait(testenv.DefaultTimeout), 3)
		c.Console.Expect("/dev/pts")
		c.Delete()
	})
	t.Run("another request", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		testenv.Shell("echo other; exit 3")(u.b.Spec)
		u.b.Write(u.Env)
		c := u.CreateFrom(u.b, nil)
		if pid := u.SandboxPids(u.id).VM; pid == u.vm || testenv.Alive(u.vm) {
			t.Error("the machine of another request is used, or lives")
		}
		c.Start()
		u.Equal("exit code", c.Wait(testenv.DefaultTimeout), 3)
		u.Equal("output", c.Stdout(), "other\n")
		c.Delete()
	})
	t.Run("another network namespace at the same path", func(t *testing.T) {
		w := newWorld(t)
		path := w.Write("netns", "")
		bind := func() {
			if err := unix.Mount(w.netns(), path, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			w.Cleanup(func() {
				if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
		}
		bind()
		u := w.unclaimed("create.hooks", testenv.NetworkNamespace(path))
		bind()
		u.again(false)
	})
	t.Run("delete", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		u.OK("delete", "--force", u.id)
		if err := u.quiet(); err != nil {
			t.Error(err)
		}
	})
	t.Run("its time is over", func(t *testing.T) {
		w := newWorld(t).configured(testenv.Settings{"runtime.unclaimed_timeout": `"3s"`})
		u := w.unclaimed("create.hooks")
		testenv.Eventually(u, limit, u.quiet) // without anybody's help
		u.OK("list")                          // and what is on disk goes with the next command
	})
	t.Run("another boot", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		// Who is of another boot writes no more.
		u.Signal(u.SandboxPids(u.id).Monitor, unix.SIGSTOP)
		path := filepath.Join(u.Root, "unclaimed", u.id, "unclaimed.json")
		boot := strings.TrimSpace(u.Read("/proc/sys/kernel/random/boot_id"))
		text := strings.Replace(u.Read(path), boot, "0ther", 1)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		u.OK("list")
		if err := u.quiet(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a damaged record", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.claim")          // the container's says created
		u.Signal(u.SandboxPids(u.id).Monitor, unix.SIGKILL) // else it may write it anew
		testenv.Eventually(u, limit, u.quiet)
		u.replace(filepath.Join(u.Root, "unclaimed", u.id, "unclaimed.json"), "{")
		u.isInvisible()
		u.OK("list") // and it goes
		u.isEmpty()
		u.again(false)
	})
	t.Run("doctor", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		for _, o := range u.doctor("--fix") {
			if o.Kind != "operation" { // the create that was killed
				t.Errorf("what is kept for its request is an orphan: %v", o)
			}
		}
		u.again(true)
	})
	t.Run("the machine has died", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		u.Signal(u.vm, unix.SIGKILL)
		u.again(false)
	})
	t.Run("a monitor that does not answer", func(t *testing.T) {
		u := newWorld(t).unclaimed("create.hooks")
		u.Signal(u.SandboxPids(u.id).Monitor, unix.SIGSTOP)
		u.isInvisible()
		u.OK("delete", "--force", u.id)
	})
}

// netns is a network namespace that no container has made. It gives its path.
func (w *world) netns() string {
	w.Helper()
	cmd := exec.Command("sleep", "100000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
	if err := cmd.Start(); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
}

// TestUnclaimedMember has the create of a pod's container killed: of the one that
// starts the pod's machine, and of one that joins it.
func TestUnclaimedMember(t *testing.T) {
	warm(t)
	inPod := func(w *world) (m *matrix) { return &matrix{world: w, pod: w.ID(), netns: w.netns()} }
	t.Run("first", func(t *testing.T) {
		w := newWorld(t)
		u := w.unclaimed("create.hooks", inPod(w).member()...)
		u.isInvisible()
		u.again(true)
	})
	t.Run("first, before its cgroup", func(t *testing.T) {
		w := newWorld(t)
		w.unclaimed("create.enter-cgroup@2", inPod(w).member()...).again(true) // the first one is the sandbox's
	})
	t.Run("another one of the pod", func(t *testing.T) {
		w := newWorld(t)
		member := inPod(w).member()
		u := w.unclaimed("create.hooks", member...)
		other := w.Started(nil, append(member, testenv.Args("sleep", "1000"))...)
		u.Equal("machines", victims("QEMU"), []int{u.vm})
		u.isInvisible()
		u.again(true) // joins the pod
		w.IsStatus(other.ID, "running")
		other.DeleteForced()
		if err := w.quiet(); err != nil {
			t.Error(err)
		}
	})
	t.Run("given up", func(t *testing.T) {
		w := newWorld(t)
		u := w.unclaimed("create.hooks", inPod(w).member()...)
		u.OK("delete", "--force", u.id)
		if err := w.quiet(); err != nil {
			t.Error(err)
		}
	})
	t.Run("of a pod that lives", func(t *testing.T) {
		w := newWorld(t)
		member := inPod(w).member()
		first := w.Started(nil, append(member, testenv.Args("sleep", "1000"))...)
		vm, servers := victims("QEMU"), len(victims("file server"))
		b, id := w.Bundle(append(member, testenv.Shell("echo all of it; exit 3"))...), w.ID()
		b.ID = id
		points := []string{"create.hooks"}
		if everything() {
			points = []string{"create.await-shim", "create.hooks", "create.claim"}
		}
		for _, point := range points {
			if res := w.armed(point+"=kill").call("create", "--bundle", b.Dir, id); res.Code != 137 {
				t.Fatal(res)
			}
			u := &unclaimed{world: w, b: b, id: id, vm: vm[0]}
			testenv.Eventually(w, limit, func() error {
				if n := len(victims("file server")); n != servers {
					return fmt.Errorf("%d processes of file servers, expected %d", n, servers)
				}
				return nil
			})
			u.isInvisible()
			if err := b.Overlay.Cycle(); err != nil {
				t.Errorf("%s: the rootfs of a caller who has gone: %v", point, err)
			}
			u.again(true)
			w.IsStatus(first.ID, "running")
		}
		first.DeleteForced()
	})
}

// room is an unfinished create in a pod that lives, with room in its machine.
type room struct {
	*world
	b       *testenv.Bundle
	id, pod string
	first   *testenv.Container
}

// newRoom makes the bundle of a container that wants memory. Its hook does not end
// before go is there.
func newRoom(w *world) *room {
	w.Helper()
	w.NeedVM()
	hook := w.Write("hook", "#!/bin/sh\n[ -e "+w.Path("go")+" ] || exec sleep 1000\n")
	if err := os.Chmod(hook, 0o755); err != nil {
		w.Fatal(err)
	}
	m := &matrix{world: w, pod: w.ID(), netns: w.netns()}
	r := &room{world: w, id: w.ID(), pod: m.pod}
	r.first = w.Started(nil, append(m.member(), testenv.Args("sleep", "1000"))...)
	r.b = w.Bundle(append(m.member(), testenv.Shell("echo all of it; exit 3"), func(s *specs.Spec) {
		limit := int64(40 << 20)
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: hook}}}
	})...)
	r.b.ID = r.id
	return r
}

// killed has the create killed in its hook.
func (r *room) killed() *room {
	r.Helper()
	servers := len(victims("file server"))
	if res := r.armed("create.hooks=kill").call("create", "--bundle", r.b.Dir, r.id); res.Code != 137 {
		r.Fatal(res)
	}
	testenv.Eventually(r, limit, func() error {
		if n := len(victims("file server")); n != servers {
			return fmt.Errorf("%d processes of file servers, expected %d", n, servers)
		}
		return nil
	})
	return r
}

// isKept checks that there is the room, and nothing else.
func (r *room) isKept() {
	r.Helper()
	(&unclaimed{world: r.world, id: r.id}).isInvisible()
	if text := r.Read(filepath.Join(r.Root, "unclaimed", r.id, "unclaimed.json")); !strings.Contains(text, fmt.Sprintf(`"sandbox": %q`, r.pod)) {
		r.Errorf("the record: %s", text)
	}
	if _, err := os.Stat(filepath.Join(r.Root, "containers", r.id)); !os.IsNotExist(err) {
		r.Errorf("the container's record: %v", err)
	}
}

// went checks what has become of it.
func (r *room) went(how string) {
	r.Helper()
	if said := r.said(); !strings.Contains(said, how) {
		r.Errorf("the monitor does not say %q of the room: %s", how, said)
	}
	r.OK("list") // what is on disk goes with the next command
	r.isForgotten()
}

// said is what the monitor has said since it has kept the room.
func (r *room) said() string {
	r.Helper()
	_, after, _ := strings.Cut(r.Read(filepath.Join(r.Root, "sandboxes", r.pod, "monitor.log")), "the room in the machine is kept")
	return after
}

func (r *room) isForgotten() {
	r.Helper()
	for _, kind := range []string{"unclaimed", "containers", "operations"} {
		if _, err := os.Stat(filepath.Join(r.Root, kind, r.id)); !os.IsNotExist(err) {
			r.Errorf("left in %s: %v", kind, err)
		}
	}
}

// again creates the container and runs it to its end.
func (r *room) again() {
	r.Helper()
	r.Write("go", "")
	c := r.CreateFrom(r.b, nil)
	c.Start()
	r.Equal("exit code", c.Wait(testenv.DefaultTimeout), 3)
	r.Equal("output", c.Stdout(), "all of it\n")
	c.Delete()
}

// TestRoom has the create of a container that joins a pod end before its time, and
// sees what becomes of the room in the pod's machine.
func TestRoom(t *testing.T) {
	if !everything() {
		t.Skip("NOT RUN: needs VC_FAULTS=all (`make fault`): boots a pod for each of its nine cases")
	}
	warm(t)
	const adopted, givenUp = "the room in the machine is adopted", "it is not wanted"
	t.Run("too slow", func(t *testing.T) {
		r := newRoom(newWorld(t))
		slow := r.configured(testenv.Settings{"runtime.create_timeout": `"4s"`})
		if res := slow.call("create", "--bundle", r.b.Dir, r.id); res.Code == 0 {
			t.Fatal(res)
		}
		r.isKept()
		if err := r.b.Overlay.Cycle(); err != nil {
			t.Errorf("the rootfs of a create that has ended: %v", err)
		}
		r.world = slow // a setting makes another request
		r.Env = slow.Env
		r.again()
		r.went(adopted)
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("failed", func(t *testing.T) {
		r := newRoom(newWorld(t))
		if res := r.armed("create.hooks=error").call("create", "--bundle", r.b.Dir, r.id); res.Code == 0 {
			t.Fatal(res)
		}
		r.isForgotten()
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("killed", func(t *testing.T) {
		r := newRoom(newWorld(t)).killed()
		r.isKept()
		r.again()
		r.went(adopted)
		r.killed().isKept() // once more
		r.OK("delete", "--force", r.id)
		r.went(givenUp)
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("deleted before anything has been cleaned up", func(t *testing.T) {
		r := newRoom(newWorld(t)).killed()
		r.OK("delete", "--force", r.id)
		r.went(givenUp)
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("fails before it has joined", func(t *testing.T) {
		r := newRoom(newWorld(t)).killed()
		r.isKept()
		if res := r.armed("create.join=error").call("create", "--bundle", r.b.Dir, r.id); res.Code == 0 {
			t.Fatal(res)
		}
		r.went(givenUp)
	})
	t.Run("in another pod", func(t *testing.T) {
		r := newRoom(newWorld(t)).killed()
		r.isKept()
		other := &matrix{world: r.world, pod: r.ID(), netns: r.netns()}
		b := r.Bundle(append(other.member(), testenv.Args("sleep", "1000"))...)
		b.ID = r.id
		c := r.CreateFrom(b, nil)
		if said := r.said(); !strings.Contains(said, givenUp) {
			t.Errorf("the first pod's monitor does not say that it was given up: %s", said)
		}
		c.DeleteForced()
		r.went(givenUp)
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("its time is over", func(t *testing.T) {
		r := newRoom(newWorld(t).configured(testenv.Settings{"runtime.unclaimed_timeout": `"1s"`})).killed()
		testenv.Eventually(t, limit, func() error { // without anybody's help
			if !strings.Contains(r.said(), "its time is over") {
				return fmt.Errorf("its time is not over")
			}
			return nil
		})
		r.went("its time is over")
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("the pod ends", func(t *testing.T) {
		r := newRoom(newWorld(t)).killed()
		r.isKept()
		r.first.DeleteForced()
		r.isEmpty()
	})
	t.Run("the monitor dies", func(t *testing.T) {
		r := newRoom(newWorld(t)).killed()
		r.isKept()
		r.Signal(r.SandboxPids(r.pod).Monitor, unix.SIGKILL)
		testenv.Eventually(t, limit, r.quiet)
		r.OK("list")
		r.isForgotten()
	})
}

// TestTooSlow has create give up before the machine has booted: it goes on
// booting, and the same create gets it.
func TestTooSlow(t *testing.T) {
	warm(t)
	w := newWorld(t).configured(testenv.Settings{"runtime.create_timeout": `"8s"`})
	w.NeedVM()
	g := w.newGate()
	b, id := w.Bundle(testenv.Args("true")), w.ID()
	b.ID = id
	over := make(chan struct{})
	go func() {
		defer close(over)
		res := w.armed("monitor.booted="+g.pause()).call("create", "--bundle", b.Dir, id)
		w.FailedWith(res, 1, "not done after 8s")
	}()
	p := g.wait(nil)
	<-over
	w.Fails("does not exist", "state", id)
	vm := w.SandboxPids(id).VM
	p.let("go")
	c := w.CreateFrom(b, nil)
	w.Equal("VM", w.SandboxPids(id).VM, vm)
	c.Start()
	w.Equal("exit code", c.Wait(testenv.DefaultTimeout), 0)
	c.Delete()
}
