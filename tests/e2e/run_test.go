package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestRun has what a container in the foreground is given and gives back.
func TestRun(t *testing.T) {
	p := newPodman(t)
	res := p.run(nil, "--rm", "-e", "A=b c", "-w", "/home/user", "--user", "1000:1000", "--hostname", "box", image,
		"sh", "-c", "echo $A; pwd; id -u; hostname; echo err >&2; exit 7")
	p.gives(res, 7, "b c\n/home/user\n1000\nbox\n")
	p.Equal("stderr", res.Stderr, "err\n")
	p.Equal("containers left", p.ok("ps", "-aq"), "")
}

func TestRunStdin(t *testing.T) {
	p := newPodman(t)
	p.gives(p.run(strings.NewReader("one\ntwo\n"), "--rm", "-i", image, "wc", "-l"), 0, "2\n")
}

func TestRunTerminal(t *testing.T) {
	p := newPodman(t)
	res := p.run(nil, "--rm", "-t", image, "sh", "-c", "[ -t 1 ] && tty; exit 3")
	p.gives(res, 3, "/dev/pts/0\r\n")
}

// TestRunCodes has podman's own exit codes: 125 for itself, 126 and 127 by
// the text of the runtime's error.
func TestRunCodes(t *testing.T) {
	for _, tt := range []struct {
		args []string
		code int
	}{
		{[]string{"--nonesuch", image}, 125},
		{[]string{"--rm", image, "/etc/passwd"}, 126},
		{[]string{"--rm", image, "nonesuch"}, 127},
		{[]string{"--rm", image, "/nonesuch"}, 127},
		{[]string{"--rm", image, "sh", "-c", "sh -c 'kill -9 $$'; exit $?"}, 137},
		{[]string{"--rm", image, "true"}, 0},
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			p := newPodman(t)
			p.gives(p.run(nil, tt.args...), tt.code, "")
			p.Equal("containers left", p.ok("ps", "-aq"), "")
		})
	}
}

// TestFiles has a folder as the rootfs, and volumes.
func TestFiles(t *testing.T) {
	p := newPodman(t)
	for _, dir := range []string{"rw", "ro"} {
		if err := os.Mkdir(p.Path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	p.Write("ro/file", "content\n")
	rootfs := p.NewOverlay("rootfs")
	res := p.run(nil, "--rm", "-v", p.Path("rw")+":/rw", "-v", p.Path("ro")+":/ro:ro", "--tmpfs", "/scratch",
		"--rootfs", rootfs.Dir,
		"sh", "-c", "cat /ro/file; echo x 2>/dev/null >/ro/new || echo refused; echo out >/rw/out; echo here >/here; echo x >/scratch/x && cat /scratch/x")
	p.gives(res, 0, "content\nrefused\nx\n")
	p.Equal("volume", p.Read(p.Path("rw/out")), "out\n")
	p.Equal("rootfs", p.Read(filepath.Join(rootfs.Upper, "here")), "here\n")
	if err := rootfs.Cycle(); err != nil {
		t.Error(err)
	}
}

// TestReadOnly has a rootfs that cannot be written to, and limits.
func TestReadOnly(t *testing.T) {
	p := newPodman(t)
	res := p.run(nil, "--rm", "--read-only", "--memory", "64m", "--pids-limit", "50", "--cap-drop", "all", image,
		"sh", "-c", "touch /x 2>&1; echo x >/tmp/x; cat /tmp/x; grep CapEff /proc/self/status")
	p.gives(res, 0, "touch: /x: Read-only file system\nx\nCapEff:\t0000000000000000\n")
}

// TestAtOnce runs three containers at the same time.
func TestAtOnce(t *testing.T) {
	p := newPodman(t)
	results := make([]*testenv.Result, 3)
	var wg sync.WaitGroup
	for i := range results {
		cmd, err := podmanCommand(p.Suite, p.Config, append(append([]string{"run"}, runFlags(p.Suite)...),
			"--rm", image, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i+1))...)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			res, err := p.Suite.Exec(cmd)
			if err != nil {
				t.Error(err)
			}
			results[i] = res
		})
	}
	wg.Wait()
	for i, res := range results {
		if res != nil {
			p.gives(res, i+1, fmt.Sprintln(i))
		}
	}
}
