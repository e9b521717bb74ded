package integration

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// mountTmpfs mounts a tmpfs with one file on a folder of the test's, and gives what
// unmounts it plainly.
func mountTmpfs(e *testenv.Env, dir, file string) (unmount func()) {
	e.Helper()
	if err := unix.Mount("tmpfs", e.Path(dir), "tmpfs", 0, "mode=755"); err != nil {
		e.Fatal(err)
	}
	mounted := true
	e.Cleanup(func() {
		if mounted {
			unix.Unmount(e.Path(dir), unix.MNT_DETACH)
		}
	})
	e.Write(dir+"/"+file, file+"\n")
	return func() {
		e.Helper()
		if err := unix.Unmount(e.Path(dir), 0); err != nil {
			e.Errorf("unmount %s: %v", dir, err)
			return
		}
		mounted = false
	}
}

// TestPropagation: what the host mounts below a volume later is in the container
// where the volume is a slave, or nothing is said of it, and not where it is
// private: engines say that of all volumes. Then the host can unmount it at any time.
func TestPropagation(t *testing.T) {
	e := suite.New(t)
	folders(e, "slave/sub", "plain/sub", "private/sub", "alone/sub")
	early := mountTmpfs(e, "alone/sub", "early")
	c := e.Started(nil, testenv.Shell(ready),
		testenv.Bind(e.Path("slave"), "/slave", "rslave"), testenv.Bind(e.Path("plain"), "/plain"), testenv.Bind(e.Path("private"), "/private", "rprivate"),
		func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/alone", Type: "bind", Source: e.Path("alone"), Options: []string{"bind", "rprivate"}})
		})
	c.WaitFor("ready")
	var unmounts []func()
	for _, dir := range []string{"slave/sub", "plain/sub", "private/sub"} {
		unmounts = append(unmounts, mountTmpfs(e, dir, "late"))
	}
	e.Equal("what is in the volumes", e.OK("exec", c.ID, "sh", "-c", "cd /; find slave plain private alone -type f").Stdout, "slave/sub/late\nplain/sub/late\n")
	unmounts[2]() // nobody else has it
	early()
	c.DeleteForced()
	unmounts[0]()
	unmounts[1]()
	for _, dir := range []string{"slave", "plain", "private", "alone"} {
		if err := os.Remove(e.Path(dir + "/sub")); err != nil {
			t.Error(err)
		}
	}
}

// TestRecursiveReadOnly: read-only with all that is below it is that also for
// who may change mounts.
func TestRecursiveReadOnly(t *testing.T) {
	e := suite.New(t)
	e.NeedVM() // on a common kernel who may mount may undo it
	folders(e, "data/sub")
	unmount := mountTmpfs(e, "data/sub", "file")
	b := e.Bundle(testenv.Capabilities("CAP_SYS_ADMIN"), testenv.Bind(e.Path("data"), "/data", "rro"),
		testenv.Shell("exec 2>&1; cat /data/sub/file; touch /data/new /data/sub/new; rm /data/sub/file; probe remount /data/sub; touch /data/sub/new"))
	res := e.Do("run", "--bundle", b.Dir, e.ID())
	if n := strings.Count(res.Stdout, "Read-only file system\n"); n != 4 || !strings.HasPrefix(res.Stdout, "file\n") || !strings.Contains(res.Stdout, "probe remount ok\n") {
		t.Errorf("%d of 4 writes were refused: %s", n, res)
	}
	unmount()
}
