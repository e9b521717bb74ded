package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// cutOff is a create whose caller is killed while memory is plugged for it.
type cutOff struct {
	*testenv.Env
	b  *testenv.Bundle
	id string
}

// newCutOff makes the bundle of a container whose create does not get past its
// hook before go is there, or the create has gone.
func newCutOff(e *testenv.Env, bundle func(...testenv.Option) *testenv.Bundle) *cutOff {
	e.Helper()
	path := e.Write("hook", "#!/bin/sh\nwhile [ ! -e "+e.Path("go")+" ] && kill -0 $PPID; do sleep 0.1; done 2>/dev/null\n")
	if err := os.Chmod(path, 0o755); err != nil {
		e.Fatal(err)
	}
	c := &cutOff{Env: e, id: e.ID()}
	c.b = bundle(memoryLimit(300<<20), testenv.Shell("echo one; exit 3"), func(s *specs.Spec) {
		s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: path}}}
	})
	c.b.ID = c.id
	return c
}

// plugged are the pieces of memory that were plugged into the machines that there
// are, by number.
func plugged() []string {
	var found []string
	for _, pid := range testenv.Processes("qemu-system-x86") {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid)) // it may have ended
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); strings.Contains(line, "memfd:memory-backend-memfd") && !slices.Contains(found, f[4]) {
				found = append(found, f[4]) // the inode (proc(5))
			}
		}
	}
	return found
}

// create has the caller killed as soon as the host has plugged n pieces of memory,
// which the guest knows nothing about yet.
func (c *cutOff) create(n int) {
	c.Helper()
	servers := len(testenv.Processes("virtiofsd"))
	res := c.Call(testenv.Command{
		Args: []string{"create", "--bundle", c.b.Dir, c.id}, Null: true,
		Started: func(pid int) {
			testenv.Eventually(c, testenv.DefaultTimeout, func() error {
				if got := plugged(); len(got) != n {
					return fmt.Errorf("the machine has the pieces %q, expected %d", got, n)
				}
				return nil
			})
			machines := testenv.Processes("qemu-system-x86")
			for _, vm := range machines {
				c.Signal(vm, unix.SIGSTOP)
			}
			c.Signal(pid, unix.SIGKILL)
			for _, vm := range machines {
				c.Signal(vm, unix.SIGCONT)
			}
		},
	})
	if res.Code != 137 {
		c.Fatalf("it was not killed: %s", res)
	}
	testenv.Eventually(c, testenv.DefaultTimeout, func() error {
		if got := testenv.Processes("virtiofsd"); len(got) != servers {
			return fmt.Errorf("the file servers %v, expected %d", got, servers)
		}
		return nil
	})
	for _, verb := range []string{"state", "start", "kill", "pause", "delete"} {
		c.Fails("does not exist", verb, c.id)
	}
	c.FailedWith(c.Do("exec", c.id, "true"), 255, "does not exist")
	if res := c.OK("list", "--quiet"); strings.Contains(res.Stdout, c.id) {
		c.Errorf("it is listed: %s", res)
	}
	if err := c.b.Overlay.Cycle(); err != nil {
		c.Errorf("the rootfs of a caller who has gone: %v", err)
	}
}

// again has the create come again, and get what the machine has already.
func (c *cutOff) again(output string, pieces int) {
	c.Helper()
	c.Write("go", "")
	k := c.CreateFrom(c.b, nil)
	c.IsStatus(c.id, "created")
	if got := plugged(); len(got) != pieces {
		c.Errorf("the machine has the pieces %q, expected %d", got, pieces)
	}
	k.Start()
	c.Equal("exit code", k.Wait(exitLimit), 3)
	c.Equal("output", k.Stdout(), output)
	c.IsStatus(c.id, "stopped")
	k.Delete()
	if err := os.Remove(c.Path("go")); err != nil {
		c.Error(err)
	}
}

// isKept checks that there is nothing of it but the record of its room, which no doctor
// takes away.
func (c *cutOff) isKept(p *pod) {
	c.Helper()
	c.OK("doctor", "--fix")
	if got := c.Read(c.unclaimed()); !strings.Contains(got, fmt.Sprintf(`"sandbox": %q`, p.id)) {
		c.Errorf("the record of its room: %s", got)
	}
	if _, err := os.Stat(filepath.Join(c.Root, "containers", c.id)); !os.IsNotExist(err) {
		c.Errorf("there is a record of the container: %v", err)
	}
}

// keepsRoom checks that the pod's machine has grown for it to so many MiB, though nobody
// waits for that.
func (c *cutOff) keepsRoom(p *pod, mib int) {
	c.Helper()
	c.isKept(p)
	testenv.Eventually(c, testenv.DefaultTimeout, func() error {
		if _, got := machineSize(c, p.infra); got < mib-mib/64-50 {
			return fmt.Errorf("the guest has %d MiB, expected %d", got, mib)
		}
		return nil
	})
}

// roomWent checks what became of the room, by what the monitor has said last about it.
func (c *cutOff) roomWent(p *pod, how string) {
	c.Helper()
	var last string
	for line := range strings.Lines(c.Read(filepath.Join(c.Root, "sandboxes", p.id, "monitor.log"))) {
		if strings.Contains(line, "the room in the machine") {
			last = line
		}
	}
	if !strings.Contains(last, how) || !strings.Contains(last, c.id) {
		c.Errorf("of the room the monitor says %q, expected %q", last, how)
	}
	c.OK("list") // what is on disk goes with the next command
	c.isForgotten()
}

func (c *cutOff) unclaimed() string {
	return filepath.Join(c.Root, "unclaimed", c.id, "unclaimed.json")
}

// isForgotten checks that there is no record of room.
func (c *cutOff) isForgotten() {
	c.Helper()
	if _, err := os.Stat(c.unclaimed()); !os.IsNotExist(err) {
		c.Errorf("the record of its room: %v", err)
	}
}

// limit makes another request of it, with so many bytes.
func (c *cutOff) limit(bytes int64) {
	memoryLimit(bytes)(c.b.Spec)
	c.b.Write(c.Env)
}

// other makes another request of it.
func (c *cutOff) other() {
	testenv.Shell("echo other; exit 3")(c.b.Spec)
	c.b.Write(c.Env)
}

// TestCutOffWhileGrowing has a create killed while memory is plugged for it. The
// container is gone. The memory is there for whoever comes next: the same create,
// another one by the same id, which in a pod gets the pod's machine, too, or a
// neighbour. In a pod it is kept for the same one until then.
func TestCutOffWhileGrowing(t *testing.T) {
	t.Run("in a pod", func(t *testing.T) {
		e := suite.New(t)
		e.NeedVM()
		settings := maps.Clone(growing)
		settings["hypervisor.max_memory"] = `"3G"`
		p := newPod(e.Configured(settings), callers[0])
		vm := p.SandboxPids(p.id).VM
		c := newCutOff(p.Env, func(o ...testenv.Option) *testenv.Bundle { return p.bundle("", false, o...) })
		c.create(1)
		c.keepsRoom(p, 640)
		c.again("one\n", 1)
		c.roomWent(p, "the room in the machine is adopted")
		isSize(t, p.infra, 1, 640)
		c.limit(700 << 20)
		c.create(2)
		c.keepsRoom(p, 1024)
		c.other()
		c.again("other\n", 2)
		c.roomWent(p, "it is not wanted")
		p.Equal("the pod's machine", p.SandboxPids(p.id).VM, vm)
		p.IsStatus(p.id, "running")
		isSize(t, p.infra, 1, 1024)
		if !allSpares() { // the rest takes as long again
			p.infra.DeleteForced()
			p.OK("doctor")
			return
		}
		c.limit(1200 << 20)
		c.create(3)
		c.keepsRoom(p, 1536)
		neighbour := p.member(memoryLimit(1100 << 20)) // fits if the other one gives way
		c.roomWent(p, "it is not wanted")
		p.Equal("pieces", len(plugged()), 3)
		neighbour.DeleteForced()
		c.limit(1300 << 20)
		c.create(4)
		c.keepsRoom(p, 2304)
		c.OK("delete", "--force", c.id)
		c.roomWent(p, "it is not wanted")
		c.limit(2200 << 20)
		c.create(5)
		c.keepsRoom(p, 3072)
		p.infra.DeleteForced()
		c.isForgotten()
		p.OK("doctor")
	})
	t.Run("in its own machine", func(t *testing.T) {
		e := suite.New(t)
		e.NeedVM()
		e = e.Configured(growing)
		c := newCutOff(e, func(o ...testenv.Option) *testenv.Bundle { return e.Bundle(o...) })
		c.create(1)
		vm := testenv.Processes("qemu-system-x86")
		c.again("one\n", 1)
		testenv.Eventually(t, exitLimit, func() error { // it was the same machine, which ends with it
			if now := testenv.Processes("qemu-system-x86"); len(vm) != 1 || len(now) != 0 {
				return fmt.Errorf("the machine was %v, there are %v now", vm, now)
			}
			return nil
		})
		c.create(1)
		c.OK("delete", "--force", c.id)
		if left := plugged(); len(left) != 0 {
			t.Errorf("left of a machine: %q", left)
		}
		e.OK("doctor")
	})
}
