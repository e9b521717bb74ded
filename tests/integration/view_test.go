package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestMountNamespace enters the mount namespace of a container's pid, as
// engines do in order to copy files: it is the container's, and nothing of the
// host is in it.
func TestMountNamespace(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	folders(e, "volume", "hidden")
	e.Write("volume/file", "of the volume\n")
	e.Write("single", "single\n")
	b := e.Bundle(
		testenv.Shell("mkdir -p /out; touch /ready; exec sleep 1000000"),
		testenv.Bind(e.Path("volume"), "/volume"),
		testenv.Bind(e.Path("volume"), "/ro", "ro"),
		testenv.Bind(e.Path("single"), "/etc/single"),
		testenv.Bind(e.Path("volume"), "/escape/volume"),
	)
	// A hostile image: the place of a volume leads out of the rootfs.
	if err := os.Symlink(e.Path("hidden"), filepath.Join(b.Rootfs, "escape")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(b.Rootfs, e.Path("hidden"), "volume"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := e.CreateFrom(b, nil)
	c.Start()
	c.WaitFor("ready")

	pid := e.State(c.ID).Pid
	enter := func(script string) *testenv.Result {
		return e.Run(t, testenv.Command{
			Path: testenv.Tool(t, "nsenter"),
			Args: []string{fmt.Sprintf("--mount=/proc/%d/ns/mnt", pid), "/bin/sh", "-c", script},
		})
	}
	res := enter(`cat /volume/file /etc/single; ls -d /out; echo copied >/root/in; echo x >/ro/x; cat /proc/1/comm; cat /proc/self/mountinfo`)
	for _, want := range []string{"of the volume\nsingle\n/out\nvc-runtime\n"} {
		if !strings.HasPrefix(res.Stdout, want) {
			t.Errorf("expected %q: %s", want, res)
		}
	}
	if !strings.Contains(res.Stderr, "Read-only file system") {
		t.Errorf("the read-only volume can be written to: %s", res)
	}
	if strings.Contains(res.Stdout, " "+filepath.Dir(e.Dir)) || strings.Contains(res.Stdout, " / /run ") {
		t.Errorf("mounts of the host are there: %s", res)
	}
	e.Equal("in the guest", e.OK("exec", c.ID, "cat", "/root/in").Stdout, "copied\n")
	if entries, err := os.ReadDir(e.Path("hidden")); err != nil || len(entries) != 0 {
		t.Errorf("made on the host: %v, %v", entries, err)
	}
	c.DeleteForced()
}
