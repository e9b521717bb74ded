package docker

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestRun has docker's exit codes: the process's, 125 for docker itself, 126
// and 127 by the text of the runtime's error.
func TestRun(t *testing.T) {
	d := newDocker(t)
	for _, tt := range []struct {
		args   []string
		code   int
		stdout string
	}{
		{[]string{image, "sh", "-c", "echo out; echo err >&2"}, 0, "out\n"},
		{[]string{"-e", "A=b c", "-w", "/tmp", "--user", "1000:1000", "--hostname", "box", image, "sh", "-c", "echo $A; pwd; id -u; hostname; exit 7"}, 7, "b c\n/tmp\n1000\nbox\n"},
		{[]string{"--nonesuch", image}, 125, ""},
		{[]string{image, "/etc/passwd"}, 126, ""},
		{[]string{image, "nonesuch"}, 127, ""},
		{[]string{image, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137, ""},
		{[]string{"--init", image, "sh", "-c", "kill -TERM $$"}, 143, ""},
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			d := docker{d.With(t)}
			d.gives(d.run(nil, append([]string{"--rm"}, tt.args...)...), tt.code, tt.stdout)
		})
	}
	d.Equal("containers left", d.ok("ps", "-aq"), "")
}

// TestAddRuntime has a runtime that dockerd was told with --add-runtime, without flags of
// its own: TERM is then the runtime's to follow up, and docker's KILL finds nothing left to do.
func TestAddRuntime(t *testing.T) {
	d := newDocker(t)
	d.Equal("path", d.ok("info", "--format", `{{(index .Runtimes "`+byFlag+`").Path}}`), testenv.Installed)
	id := d.ok("run", "--detach", "--runtime", byFlag, image, "sh", "-c", "trap 'exit 6' TERM; echo ready; while :; do sleep 0.1; done")
	t.Cleanup(func() { d.removed(id) })
	d.logged(id, "ready")
	d.Equal("runtime", d.ok("inspect", "--format", "{{.HostConfig.Runtime}}", id), byFlag)
	d.ok("stop", "--time", "60", id)
	d.Equal("status", d.status(id), "exited 6")
}

// TestRunStreams has input, and output apart from errors.
func TestRunStreams(t *testing.T) {
	d := newDocker(t)
	res := d.run(strings.NewReader("one\ntwo\n"), "--rm", "-i", image, "sh", "-c", "wc -l; echo err >&2")
	d.gives(res, 0, "2\n")
	d.Equal("stderr", res.Stderr, "err\n")
}

// TestRunTerminal is docker run -it, with a terminal that is resized.
func TestRunTerminal(t *testing.T) {
	d := newDocker(t)
	cmd, err := command(d.Suite, "run", "--rm", "-it", "--runtime", runtime, image, "sh", "-c",
		"tty; read line; echo got $line; trap 'stty size; exit 4' WINCH; echo waiting; while :; do sleep 0.1; done")
	if err != nil {
		t.Fatal(err)
	}
	console, pid := d.AtTerminal(100, 30, cmd)
	defer console.Close()
	console.Expect("/dev/pts/0")
	console.Type("hello\n")
	console.Expect("got hello")
	console.Expect("waiting")
	console.Resize(120, 40)
	d.Signal(pid, 28) // SIGWINCH: the terminal's size has no foreground group to tell
	console.Expect("40 120")
	d.Equal("exit code", d.Await(pid, time.Minute), 4)
}

// TestRunLimits has --init, limits, volumes, and file systems of its own.
func TestRunLimits(t *testing.T) {
	d := newDocker(t)
	for _, dir := range []string{"rw", "ro"} {
		if err := os.Mkdir(d.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d.Write("ro/file", "content")
	d.ok("volume", "create", "data")
	t.Cleanup(func() { d.ok("volume", "rm", "data") })
	script := "cat /proc/1/comm /ro/file; echo; echo x 2>/dev/null >/ro/new || echo refused; echo out >/rw/out; echo kept >/data/file; echo x >/scratch/x && echo scratch; " +
		"touch /x 2>&1; cat /etc/hostname; grep -c box /etc/hosts"
	res := d.run(nil, "--rm", "--init", "--read-only", "--hostname", "box", "--memory", "64m", "--cpus", "1.5", "--pids-limit", "77", "--tmpfs", "/scratch",
		"-v", d.Path("rw")+":/rw", "-v", d.Path("ro")+":/ro:ro", "-v", "data:/data", image, "sh", "-c", script)
	d.gives(res, 0, "docker-init\ncontent\nrefused\nscratch\ntouch: /x: Read-only file system\nbox\n1\n")
	d.Equal("volume on the host", d.Read(d.Path("rw/out")), "out\n")
	d.gives(d.run(nil, "--rm", "-v", "data:/data:ro", image, "cat", "/data/file"), 0, "kept\n")
}

// TestRestart has a container that fails be started again by the daemon.
func TestRestart(t *testing.T) {
	d := newDocker(t)
	id := d.detached("--restart", "on-failure:2", image, "sh", "-c", "echo run; exit 3")
	testenv.Eventually(t, 2*time.Minute, func() error {
		if got := d.ok("inspect", "--format", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", id); got != "2 exited 3" {
			return fmt.Errorf("restarts, status and code: %s", got)
		}
		return nil
	})
	d.Equal("log", d.ok("logs", id), "run\nrun\nrun")
}
