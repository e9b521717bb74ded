package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// status is podman's view of a container.
func (p podman) status(id string) string {
	p.Helper()
	return p.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", id)
}

// logged waits until a text is in a container's log.
func (p podman) logged(id, text string) {
	p.Helper()
	testenv.Eventually(p, 30*time.Second, func() error {
		if out := p.ok("logs", id); !strings.Contains(out, text) {
			return fmt.Errorf("no %q in the log: %s", text, out)
		}
		return nil
	})
}

// TestDetached walks a container through its life in the background.
func TestDetached(t *testing.T) {
	p := newPodman(t)
	id := p.detached("--name", "box", image, "sh", "-c",
		"trap 'echo got usr1' USR1; trap 'echo got term; exit 143' TERM; echo ready; echo err >&2; while :; do sleep 0.1; done")
	p.logged(id, "ready")
	p.Equal("status", p.status(id), "running 0")

	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
	}{
		{[]string{id, "echo", "hello"}, 0, "hello\n"},
		{[]string{id, "sh", "-c", "exit 7"}, 7, ""},
		{[]string{id, "nonesuch"}, 127, ""},
		{[]string{id, "/etc/passwd"}, 126, ""},
		{[]string{"-t", id, "sh", "-c", "[ -t 0 ] && echo terminal"}, 0, "terminal\r\n"},
		{[]string{"-e", "X=y", "-w", "/tmp", "-u", "user", id, "sh", "-c", "echo $X; pwd; id -un"}, 0, "y\n/tmp\nuser\n"},
	} {
		p.gives(p.do(nil, append([]string{"exec"}, tt.args...)...), tt.code, tt.stdout)
	}
	p.gives(p.do(strings.NewReader("in\n"), "exec", "-i", id, "cat"), 0, "in\n")
	p.ok("exec", "-d", id, "touch", "/detached")
	testenv.Eventually(t, 30*time.Second, func() error {
		if res := p.do(nil, "exec", id, "test", "-e", "/detached"); res.Code != 0 {
			return errors.New(res.String())
		}
		return nil
	})

	p.ok("kill", "--signal", "USR1", id)
	p.logged(id, "got usr1")
	p.Equal("status", p.status(id), "running 0")
	p.ok("stop", "--time", "30", id)
	p.Equal("status", p.status(id), "exited 143")
	p.logged(id, "got term")
	p.Equal("the other log", strings.Contains(p.do(nil, "logs", id).Stderr, "err"), true)

	p.ok("start", id) // again
	testenv.Eventually(t, 30*time.Second, func() error {
		if n := strings.Count(p.ok("logs", id), "ready"); n != 2 {
			return fmt.Errorf("%d times ready", n)
		}
		return nil
	})
	p.ok("kill", id)
	p.Equal("waited for", p.ok("wait", id), "137")
	p.ok("rm", id)
}

// TestStopIgnored stops what ignores TERM: the runtime escalates after the
// grace that it was told, or podman itself after its time-out where the
// runtime is configured to leave that to it.
func TestStopIgnored(t *testing.T) {
	for _, tt := range []struct {
		name     string
		settings testenv.Settings
		flags    []string
	}{
		{"grace", nil, []string{"--annotation", "io.vc-runtime.stop.grace=1s"}},
		{"on_term", testenv.Settings{"runtime.on_term": `"signal"`}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := podman{suite.New(t).Configured(tt.settings)}
			id := p.detached(append(tt.flags, image,
				"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")...)
			p.logged(id, "ready")
			begin := time.Now()
			p.ok("stop", "--time", "2", id)
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("stop took %s", took)
			}
			p.Equal("status", p.status(id), "exited 137")
		})
	}
}

// TestRemoveRunning removes by force.
func TestRemoveRunning(t *testing.T) {
	p := newPodman(t)
	id := p.detached(image, "sleep", "1000000")
	p.ok("rm", "--force", "--time", "0", id)
	if res := p.do(nil, "inspect", id); res.Code == 0 {
		t.Errorf("the removed container is there: %s", res)
	}
}

// TestMachineDies kills the VM: podman sees a container that has failed.
func TestMachineDies(t *testing.T) {
	p := newPodman(t)
	p.NeedVM()
	id := p.detached(image, "sleep", "1000000")
	machines := testenv.Processes("qemu-system-x86")
	if len(machines) != 1 {
		t.Fatalf("machines: %v", machines)
	}
	p.Signal(machines[0], unix.SIGKILL)
	p.Equal("waited for", p.ok("wait", id), "137")
	p.Equal("status", p.status(id), "exited 137")
	p.ok("rm", id)
}
