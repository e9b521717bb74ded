package integration

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestSpareShare: the guest of a spare has found the device of its container's share
// before there is a file server, and all goes as with one that is plugged for it.
func TestSpareShare(t *testing.T) {
	if !allSpares() {
		t.Skip("NOT RUN: needs VC_SPARES=all (`make fault`): makes a spare machine for each of its cases")
	}
	t.Run("memory is plugged", spareShareGrows)
	t.Run("released after KILL", func(t *testing.T) {
		p := newPool(t, 1, nil)
		was := p.fill(1)[0]
		release(p.Env, func(c *testenv.Container) {
			p.took(was, c.ID)
			p.OK("kill", c.ID, "KILL")
		})
	})
	t.Run("file server killed", func(t *testing.T) {
		spareServer(t, unix.SIGKILL, func(p *pool, c *testenv.Container) { p.Await(c.Pid, sluggish) })
	})
	t.Run("file server stopped", func(t *testing.T) {
		spareServer(t, unix.SIGSTOP, func(p *pool, c *testenv.Container) { p.OK("kill", c.ID, "KILL") })
	})
	t.Run("pod", spareSharePod)
}

// took checks that the sandbox is the machine that was a spare.
func (p *pool) took(was spareState, id string) {
	p.Helper()
	if now := p.SandboxPids(id); now.Monitor != was.Monitor || now.VM != was.VM {
		p.Fatalf("the sandbox has %v, the spare was %v", now, was)
	}
}

// spareShareGrows: no device is plugged for the share, but memory is, which the file
// server reaches.
func spareShareGrows(t *testing.T) {
	p := newPool(t, 1, growing)
	was := p.fill(1)[0]
	data := make([]byte, 16<<20)
	rand.Read(data)
	b := p.Bundle(memoryLimit(400<<20), testenv.Shell(
		"sha256sum </data && dd if=/dev/zero of=/dev/null bs=350000000 count=1 2>&1 | head -1 && cp /data /copy && sha256sum </copy"))
	if err := os.WriteFile(filepath.Join(b.Rootfs, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	trace := p.Path("trace")
	res := p.OK("--trace", trace, "run", "--bundle", b.Dir, p.ID())
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256(data))
	p.Equal("output", res.Stdout, sum+"1+0 records in\n"+sum)
	p.Equal("what was written", sha256.Sum256([]byte(p.Read(filepath.Join(b.Rootfs, "copy")))), sha256.Sum256(data))
	said := p.Read(trace)
	for text, expected := range map[string]bool{`"adopt the spare"`: true, `"attach the share"`: true, `"plug the share"`: false, `"chardev-add"`: false} {
		if strings.Contains(said, text) != expected {
			t.Errorf("the trace says %s: %t, expected %t", text, !expected, expected)
		}
	}
	p.Await(was.Monitor, time.Minute)
	if err := b.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
}

// spareServer does something to the file server of a container in a spare, and then
// what ends the container.
func spareServer(t *testing.T, by unix.Signal, end func(*pool, *testenv.Container)) {
	p := newPool(t, 1, nil)
	was := p.fill(1)[0]
	c := p.Started(nil, testenv.Shell("touch /ready; while :; do echo more >/written; done"))
	p.took(was, c.ID)
	c.WaitFor("ready")
	p.ready(1) // the next one rehearses no more
	servers := serversIn(p.Root)
	if len(servers) == 0 {
		t.Fatal("the container has no file server")
	}
	for _, pid := range servers {
		p.Signal(pid, by)
	}
	end(p, c)
	p.IsStatus(c.ID, "stopped")
	p.Equal("exit code", c.Wait(sluggish), 137)
	if err := c.Bundle.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	for _, pid := range servers {
		if testenv.Alive(pid) {
			t.Errorf("the file server %d lives", pid)
		}
	}
	c.Delete()
	p.Await(was.Monitor, time.Minute)
	if testenv.Alive(was.VM) {
		t.Errorf("the machine %d lives", was.VM)
	}
}

// spareSharePod: the idle share is the first container's, the others' are plugged and
// unplugged.
func spareSharePod(t *testing.T) {
	p := newPool(t, 1, nil)
	was := p.fill(1)[0]
	pod := newPod(p.Env, callers[0])
	p.took(was, pod.id)
	for range 2 {
		c := p.CreateFrom(pod.bundle(p.ID(), false, testenv.Shell("echo here >/f; cat /f")), nil)
		c.Start()
		p.Equal("exit code", c.Wait(exitLimit), 0)
		p.Equal("output", c.Stdout(), "here\n")
		c.Delete()
	}
	devices := p.OK("exec", pod.id, "sh", "-c", "ls -d /sys/bus/virtio/drivers/virtiofs/virtio*").Stdout
	if n := strings.Count(devices, "\n"); n != 1 {
		t.Errorf("the machine has the shares %q, expected that of the first container", devices)
	}
}
