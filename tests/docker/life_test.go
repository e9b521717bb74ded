package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestDetached walks a container through its life in the background.
func TestDetached(t *testing.T) {
	d := newDocker(t)
	id := d.detached("--name", "box", image, "sh", "-c",
		"trap 'echo got usr1' USR1; trap 'echo got term; exit 143' TERM; echo ready; echo err >&2; while :; do sleep 0.1; done")
	d.logged(id, "ready")
	d.Equal("status", d.status(id), "running 0")

	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
	}{
		{[]string{id, "echo", "hello"}, 0, "hello\n"},
		{[]string{id, "sh", "-c", "exit 7"}, 7, ""},
		{[]string{id, "/etc/passwd"}, 126, ""},
		{[]string{id, "nonesuch"}, 126, ""}, // docker 20.10's code for any exec that has not begun
		{[]string{"-t", id, "sh", "-c", "[ -t 0 ] && echo terminal"}, 0, "terminal\r\n"},
		{[]string{"-e", "X=y", "-w", "/tmp", "-u", "user", id, "sh", "-c", "echo $X; pwd; id -un"}, 0, "y\n/tmp\nuser\n"},
	} {
		d.execGives(d.do(nil, append([]string{"exec"}, tt.args...)...), tt.code, tt.stdout)
	}
	d.gives(d.do(strings.NewReader("in\n"), "exec", "-i", id, "cat"), 0, "in\n")
	d.ok("exec", "-d", id, "touch", "/detached")
	testenv.Eventually(t, time.Minute, func() error {
		if res := d.do(nil, "exec", id, "test", "-e", "/detached"); res.Code != 0 {
			return errors.New(res.String())
		}
		return nil
	})

	d.ok("kill", "--signal", "USR1", id)
	d.logged(id, "got usr1")
	d.Equal("status", d.status(id), "running 0")
	d.ok("stop", "--time", "30", id)
	d.Equal("status", d.status(id), "exited 143")
	d.logged(id, "got term")
	d.Equal("the other log", d.do(nil, "logs", id).Stderr, "err\n")

	d.ok("start", id) // again
	testenv.Eventually(t, time.Minute, func() error {
		if n := strings.Count(d.ok("logs", id), "ready"); n != 2 {
			return fmt.Errorf("%d times ready", n)
		}
		return nil
	})
	d.ok("kill", id)
	d.Equal("waited for", d.ok("wait", id), "137")
	d.ok("rm", id)
}

// execGives checks a result of docker exec, whose own message goes to stdout.
func (d docker) execGives(res *testenv.Result, code int, stdout string) {
	d.Helper()
	if code == 126 {
		stdout = res.Stdout
	}
	d.gives(res, code, stdout)
}

// TestStopIgnored stops what ignores TERM: docker's clock and the runtime's
// both run, and either way the code is 137.
func TestStopIgnored(t *testing.T) {
	d := newDocker(t)
	id := d.detached(image, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
	d.logged(id, "ready")
	d.ok("stop", "--time", "1", id)
	d.Equal("status", d.status(id), "exited 137")
}

// TestRemoveRunning removes by force, after which the rootfs is not mounted any
// more and its layers have gone: nothing had to be tried twice.
func TestRemoveRunning(t *testing.T) {
	d := newDocker(t)
	for range 3 {
		id := d.detached("-v", "/anonymous", image, "sh", "-c", "echo x >/anonymous/file; exec 3>/open; sleep 1000000")
		merged := d.ok("inspect", "--format", "{{.GraphDriver.Data.MergedDir}}", id)
		d.ok("rm", "--force", "--volumes", id)
		if _, err := os.Stat(filepath.Dir(merged)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the layer of the removed container: %v", err)
		}
	}
}

// TestLook has what docker shows of a running container, and what it changes.
func TestLook(t *testing.T) {
	d := newDocker(t)
	id := d.detached("--memory", "64m", "--cpus", "1", image, "sh", "-c", "echo ready; while :; do echo tick >>/ticks; sleep 0.1; done")
	d.logged(id, "ready")

	// What docker shows are the host's processes of the container, and their memory.
	var stats struct{ MemUsage, PIDs, Container string }
	out := d.ok("stats", "--no-stream", "--format", "{{json .}}", id)
	if err := json.Unmarshal([]byte(out), &stats); err != nil || stats.PIDs == "0" || strings.HasPrefix(stats.MemUsage, "0B") {
		t.Errorf("stats: %v: %s", err, out)
	}
	if out := d.ok("top", id); !strings.Contains(out, "PID") || len(strings.Split(out, "\n")) < 2 {
		t.Errorf("top: %s", out)
	}

	ticks := filepath.Join(d.ok("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", id), "ticks")
	count := func() int { return strings.Count(d.Read(ticks), "tick") }
	d.ok("pause", id)
	d.Equal("status", d.status(id), "paused 0")
	before := count()
	time.Sleep(500 * time.Millisecond) // five ticks of one that runs
	d.Equal("ticks while paused", count()-before, 0)
	d.ok("unpause", id)
	testenv.Eventually(t, time.Minute, func() error {
		if count() == before {
			return fmt.Errorf("still %d ticks", before)
		}
		return nil
	})

	limits := "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"
	if d.IsVM() {
		d.Equal("limits", d.ok("exec", id, "sh", "-c", limits), "67108864\n100000 100000")
	}
	d.ok("update", "--memory", "96m", "--memory-swap", "96m", "--cpus", "0.5", id)
	if d.IsVM() {
		d.Equal("limits after an update", d.ok("exec", id, "sh", "-c", limits), "100663296\n50000 100000")
	}
	d.ok("rename", id, d.ID())
}

// TestCopy copies files into a running container and out of it, and shows what
// has changed in it.
func TestCopy(t *testing.T) {
	d := newDocker(t)
	id := d.detached(image, "sleep", "1000000")
	d.Write("in", "from the host\n")
	d.ok("cp", d.Path("in"), id+":/root/in")
	d.Equal("in the container", d.ok("exec", id, "cat", "/root/in"), "from the host")
	d.ok("exec", id, "sh", "-c", "mkdir /out; echo guest >/out/file; ln -s file /out/link")
	d.ok("cp", id+":/out", d.Path("copied"))
	d.Equal("on the host", d.Read(d.Path("copied/link")), "guest\n")
	changes := strings.Split(d.ok("diff", id), "\n")
	slices.Sort(changes) // docker gives them as they come
	d.Equal("changes", strings.Join(changes, "\n"), "A /out\nA /out/file\nA /out/link\nA /root/in\nC /root")
	d.ok("commit", id, "test.local/committed:1")
	t.Cleanup(func() { d.ok("rmi", "test.local/committed:1") })
	d.gives(d.run(nil, "--rm", "test.local/committed:1", "cat", "/out/file"), 0, "guest\n")
}
