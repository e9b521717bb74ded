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

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestLifecycle walks one container through its life.
func TestLifecycle(t *testing.T) {
	e := suite.New(t)
	begin := time.Now().Add(-time.Second)
	c := e.Container(nil,
		testenv.Shell("echo out; echo err >&2; until [ -e /go ]; do sleep 0.1; done; exit 7"),
		testenv.Annotation("org.example.key", "value"))

	st := e.State(c.ID)
	e.Equal("status after create", st.Status, "created")
	e.Equal("pid", st.Pid, c.Pid)
	e.Equal("id", st.ID, c.ID)
	e.Equal("bundle", st.Bundle, c.Bundle.Dir)
	e.Equal("rootfs", st.Rootfs, c.Bundle.Rootfs)
	e.Equal("annotation", st.Annotations["org.example.key"], "value")
	if st.Version == "" || st.Created.Before(begin) || st.Created.After(time.Now()) {
		t.Errorf("state: version %q, created %s", st.Version, st.Created)
	}
	e.Fails("container with given ID already exists", "create", "--bundle", c.Bundle.Dir, c.ID)
	e.IsStatus(c.ID, "created")

	c.Start()
	e.IsStatus(c.ID, "running")
	e.Fails("cannot start an already running container", "start", c.ID)
	e.Fails("is not stopped: running", "delete", c.ID)

	write(t, c, "go", "")
	e.Equal("exit code", c.Wait(exitLimit), 7)
	e.Equal("stdout", c.Stdout(), "out\n")
	e.Equal("stderr", c.Stderr(), "err\n")
	st = e.State(c.ID)
	e.Equal("status after exit", st.Status, "stopped")
	e.Equal("pid after exit", st.Pid, 0)
	e.Fails("cannot start a container that has stopped", "start", c.ID)
	c.Delete()
	e.Fails("does not exist", "state", c.ID)
	e.Fails("does not exist", "delete", c.ID)
	e.OK("delete", "--force", c.ID)
}

// TestExitCode has what TestLifecycle's 7 leaves: success, and a code like
// that of a signal. (Of signals only KILL ends the process 1 of a namespace
// that has no handler for it; TestKill has that.)
func TestExitCode(t *testing.T) {
	for _, tt := range []struct {
		script string
		code   int
	}{
		{"exit 0", 0},
		{"sh -c 'kill -USR2 $$'; exit $?", 128 + 12},
	} {
		t.Run(fmt.Sprint(tt.code), func(t *testing.T) {
			e := suite.New(t)
			c := e.Started(nil, testenv.Shell(tt.script))
			e.Equal("exit code", c.Wait(exitLimit), tt.code)
			e.IsStatus(c.ID, "stopped")
			c.Delete()
		})
	}
}

// TestStreams sends 10 MB in and gets 10 MB out, both without a loss.
func TestStreams(t *testing.T) {
	const size = 10 << 20
	data := make([]byte, size)
	rand.Read(data)
	sent := fmt.Sprintf("%x", sha256.Sum256(data))

	e := suite.New(t)
	// The last command's output is still on its way when the process ends.
	c := e.Started(strings.NewReader(string(data)),
		testenv.Shell("cat >/data && sha256sum </data >&2 && cat /data"))
	e.Equal("exit code", c.Wait(exitLimit), 0)
	e.Equal("sum of stdin in the guest", strings.Fields(c.Stderr() + " -")[0], sent)
	e.Equal("sum of stdout", fmt.Sprintf("%x", sha256.Sum256([]byte(c.Stdout()))), sent)
	c.Delete()
}

// TestKernelByPath boots another kernel file than the image's.
func TestKernelByPath(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	kernel := e.Path("kernel")
	if err := os.Symlink(filepath.Join(suite.Guest, "vmlinux"), kernel); err != nil {
		t.Fatal(err)
	}
	e = e.Configured(testenv.Settings{"hypervisor.kernel": fmt.Sprintf("%q", kernel)})
	b := e.Bundle(testenv.Args("uname", "-s"))
	if res := e.Do("run", "--bundle", b.Dir, e.ID()); res.Code != 0 || res.Stdout != "Linux\n" {
		t.Error(res)
	}
	none := e.Configured(testenv.Settings{"hypervisor.kernel": `"/nonexistent"`})
	none.FailedWith(none.Do("run", "--bundle", b.Dir, none.ID()), 1, "/nonexistent")
}
