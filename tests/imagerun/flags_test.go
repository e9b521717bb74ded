package imagerun

import (
	"fmt"
	"os"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestStdioAndLimits: standard input only with -i, a terminal only with -t, and the
// limits in the container's cgroup.
func TestStdioAndLimits(t *testing.T) {
	e := newEnv(t)
	busybox(e)
	count := func(flags ...string) string {
		args := append(append([]string{"run", "--network", "none"}, flags...), "busybox", "wc", "-c")
		return e.Call(testenv.Command{Args: args, Stdin: strings.NewReader("12345")}).Stdout
	}
	e.Equal("bytes of input with -i", count("-i"), "5\n")
	e.Equal("bytes of input without", count(), "0\n")

	console, pid := e.Command(80, 25, "run", "-it", "--network", "none", "busybox", "sh", "-c", "tty; read line; echo got $line; exit 3")
	defer console.Close()
	console.Expect("/dev/pts/0")
	console.Type("typed\r")
	console.Expect("got typed")
	e.Equal("exit code at a terminal", e.Await(pid, testenv.DefaultTimeout), 3)

	res := e.OK("run", "--network", "none", "--memory", "64m", "--cpus", "0.5", "busybox", "cat", "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/cpu.max")
	e.Equal("limits", res.Stdout, fmt.Sprintf("%d\n50000 100000\n", 64<<20))
}

// TestDeclaredVolumes: folders that an image declares to be volumes are there, with
// what the image has in them, and can be written to also where nothing else can.
func TestDeclaredVolumes(t *testing.T) {
	e := newEnv(t)
	config := v1.ImageConfig{Volumes: map[string]struct{}{"/data/none/has": {}, "/srv": {}}}
	name := layout(e, "image", config, base(e), layerOf(e, file{name: "srv/", mode: 0o700}, file{name: "srv/file", content: "of the image\n"}))
	script := "stat -c %a /data/none/has /srv; cat /srv/file; echo x >/data/none/has/new && echo x >/srv/new && cat /srv/new /data/none/has/new; echo x >/other"
	e.Equal("volumes", e.OK("run", "--network", "none", name, "sh", "-c", script).Stdout, "755\n700\nof the image\nx\nx\n")
	res := e.Do("run", "--network", "none", "--read-only", name, "sh", "-c", script)
	e.Equal("volumes of a container that is read-only", res.Stdout, "755\n700\nof the image\nx\nx\n")
	if res.Code != 1 || !strings.Contains(res.Stderr, "Read-only file system") {
		t.Errorf("the rest can be written to: %s", res)
	}
}

// TestUnpackedImage: the bundle of an image is one that other runtimes run.
func TestUnpackedImage(t *testing.T) {
	e := newEnv(t)
	config := v1.ImageConfig{Cmd: []string{"sh", "-c", "id -un; pwd; cat here; ls /gone"}, User: "user", WorkingDir: "/srv", Env: []string{"PATH=/usr/bin:/bin"}}
	name := layout(e, "image", config, base(e),
		layerOf(e, file{name: "gone/"}, file{name: "gone/file"}, file{name: "gone/stays"}, file{name: "srv/"}, file{name: "srv/here", content: "below\n"}),
		layerOf(e, file{name: "gone/.wh.file"}, file{name: "srv/here", content: "above\n"}))
	e.OK("image", "pull", "-q", name)
	bundle := e.Path("bundle")
	e.OK("image", "unpack", name, bundle)
	const want = "user\n/srv\nabove\nstays\n"
	e.Equal("as an image", e.OK("run", "--network", "none", name).Stdout, want)
	res := e.Run(e, testenv.Command{
		Path: testenv.Tool(e, "runc"), Args: []string{"--root", e.Path("runc"), "run", "--bundle", bundle, e.ID()}, Env: []string{"PATH=" + os.Getenv("PATH")},
	})
	if res.Code != 0 || res.Stdout != want {
		t.Errorf("with runc: %s", res)
	}
}
