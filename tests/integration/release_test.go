package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestRelease is the first promise: when a container has stopped, in whatever
// way, its rootfs and its volumes can be unmounted at once, plainly, and the
// same overlay can be mounted again.
func TestRelease(t *testing.T) {
	cycles := 20
	if v := os.Getenv("VC_CYCLES"); v != "" {
		var err error
		if cycles, err = strconv.Atoi(v); err != nil {
			t.Fatalf("VC_CYCLES: %v", err)
		}
	}
	ways := []struct {
		name string
		stop func(*testenv.Container)
	}{
		{"kill KILL", func(c *testenv.Container) { c.OK("kill", c.ID, "KILL") }},
		{"kill TERM", func(c *testenv.Container) { c.OK("kill", c.ID, "TERM") }},
		{"exit", func(c *testenv.Container) {
			write(c, c, "go", "")
			c.Await(c.Pid, exitLimit)
		}},
		{"delete --force", func(c *testenv.Container) { c.DeleteForced() }},
	}
	for i := range cycles {
		way := ways[i%len(ways)]
		t.Run(fmt.Sprintf("%s/%d", way.name, i/len(ways)), func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			release(e, way.stop)
		})
	}
}

// release runs a container that writes for as long as it lives, stops it, and
// takes its mounts away.
func release(e *testenv.Env, stop func(*testenv.Container)) {
	e.Helper()
	e.Write("file", "")
	volume, tmpfs := e.NewOverlay("volume"), e.Path("tmpfs")
	if err := os.Mkdir(tmpfs, 0o755); err != nil {
		e.Fatal(err)
	}
	if err := unix.Mount("tmpfs", tmpfs, "tmpfs", 0, ""); err != nil {
		e.Fatal(err)
	}
	defer unix.Unmount(tmpfs, unix.MNT_DETACH) // nothing to do but after a failure
	script := `trap 'exit 0' TERM
exec 3>/held 4>/volume/held 5>/tmpfs/held
echo written >/written; echo written >/volume/written
echo first >&3; echo first >&4
touch /ready
until [ -e /go ]; do echo more >&3; echo more >&4; echo more >&5; done`
	c := e.Started(nil, testenv.Shell(script),
		testenv.Bind(volume.Dir, "/volume"), testenv.Bind(tmpfs, "/tmpfs"))
	c.WaitFor("ready")

	stop(c)

	// From here on no retry and no flag.
	if err := c.Bundle.Overlay.Unmount(); err != nil {
		e.Error(err)
	}
	if err := volume.Unmount(); err != nil {
		e.Error(err)
	}
	if err := unix.Unmount(tmpfs, 0); err != nil {
		e.Errorf("unmount the tmpfs: %v", err)
	}
	if testenv.Alive(c.Pid) {
		e.Error("the shim lives")
	}
	for _, o := range []*testenv.Overlay{c.Bundle.Overlay, volume} {
		if err := o.Mount(); err != nil {
			e.Errorf("again: %v", err)
		}
		e.Equal("written file", e.Read(filepath.Join(o.Upper, "written")), "written\n")
		if st, err := os.Stat(filepath.Join(o.Upper, "held")); err != nil || st.Size() == 0 {
			e.Errorf("what was written to an open file is lost: %v", err)
		}
	}
}

// TestDeath kills the processes of a running container one at a time.
func TestDeath(t *testing.T) {
	for _, tt := range []struct {
		victim string
		pid    func(*testenv.Container) int
	}{
		{"shim", func(c *testenv.Container) int { return c.Pid }},
		{"monitor", func(c *testenv.Container) int { return c.SandboxPids(c.ID).Monitor }},
		{"VM", func(c *testenv.Container) int { return c.SandboxPids(c.ID).VM }},
	} {
		t.Run(tt.victim, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			c := e.Started(nil)
			e.Signal(tt.pid(c), unix.SIGKILL)
			if tt.victim == "shim" { // its pid is gone: nothing more is needed
				e.Await(c.Pid, sluggish)
				if err := c.Bundle.Overlay.Cycle(); err != nil {
					t.Error(err)
				}
			}

			res := e.OK("state", c.ID)
			if res.Took > time.Second {
				t.Errorf("state took %s", res.Took)
			}
			e.IsStatus(c.ID, "stopped")
			if err := c.Bundle.Overlay.Cycle(); err != nil {
				t.Error(err)
			}
			if code := c.Wait(sluggish); code != 137 {
				t.Errorf("exit code %d: a container that was killed has 137", code)
			}
			e.Fails("container not running", "kill", c.ID, "KILL")
			c.Delete()
			if left := testenv.Processes("qemu-system-x86"); len(left) != 0 {
				t.Errorf("delete has left VMs: %v", left)
			}
		})
	}
}

// TestFrozen stops the VM's process, so that neither it nor the guest answers.
func TestFrozen(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil)
	e.Signal(e.SandboxPids(c.ID).VM, unix.SIGSTOP)

	if res := e.OK("state", c.ID); res.Took > time.Second {
		t.Errorf("state took %s", res.Took)
	}
	e.IsStatus(c.ID, "running")
	if res := e.OK("kill", c.ID, "KILL"); res.Took > 5*time.Second {
		t.Errorf("KILL took %s", res.Took)
	}
	stopped(t, c)
	e.Equal("exit code", c.Wait(time.Second), 137)
	c.Delete()
}

// TestOthersRelease is the first promise for everybody else's mounts: a container
// that lives holds none that was there when it was started, but its own. They are
// private, as the folders are that podman mounts its containers in: an unmount by the
// host does not reach copies of such a mount in other namespaces.
func TestOthersRelease(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	private := e.Path("private")
	if err := os.Mkdir(private, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(private, private, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(private, unix.MNT_DETACH) })
	if err := unix.Mount("", private, "", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	other := e.NewOverlay("private/other")
	c := e.Started(nil, testenv.Shell("touch /ready; exec sleep 1000"))
	c.WaitFor("ready")
	if err := other.Cycle(); err != nil {
		t.Errorf("an overlay that is not the container's: %v", err)
	}
	c.OK("kill", c.ID, "KILL")
}
