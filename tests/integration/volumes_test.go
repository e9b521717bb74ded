package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestVolumes has one container with every kind of volume.
func TestVolumes(t *testing.T) {
	e := suite.New(t)
	folders(e, "rw", "ro/sub", "single-target", "below/mounted")
	e.Write("ro/file", "read-only\n")
	e.Write("single", "single\n")
	e.Write("rw/before", "before\n")
	// A mount below the source comes along.
	if err := unix.Mount("tmpfs", e.Path("below/mounted"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(e.Path("below/mounted"), 0); err != nil {
			t.Error(err)
		}
	})
	e.Write("below/mounted/deep", "deep\n")

	b := e.Bundle(
		testenv.Capabilities("CAP_SYS_ADMIN"),
		testenv.Shell(`exec 2>&1
cat /single /missing/deep/file /link/volume/before /below/mounted/deep
echo a >/ro/file; echo b >/ro/new; mkdir /ro/sub/new; rm /ro/file; chmod 777 /ro/file
probe remount /ro
echo changed >/single; echo out >/rw/out; ls /ro`),
		testenv.Bind(e.Path("rw"), "/rw"),
		testenv.Bind(e.Path("ro"), "/ro", "ro"),
		testenv.Bind(e.Path("below"), "/below"),
		testenv.Bind(e.Path("single"), "/single"),
		testenv.Bind(e.Path("single"), "/missing/deep/file", "ro"),
		testenv.Bind(e.Path("rw"), "/link/volume"))
	// The destination leads through a symlink, which is meant inside of the
	// rootfs: on the host /real is not there.
	if err := os.Symlink("/real", filepath.Join(b.Rootfs, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(b.Rootfs, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	c := e.CreateFrom(b, nil)
	c.Start()
	e.Equal("exit code", c.Wait(exitLimit), 0)

	out := c.Stdout()
	if !strings.HasPrefix(out, "single\nsingle\nbefore\ndeep\n") {
		t.Errorf("contents of the volumes: %s", out)
	}
	if n := strings.Count(out, "Read-only file system"); n != 5 {
		t.Errorf("a read-only volume was written to: %d of 5 attempts were refused: %s", n, out)
	}
	// On a common kernel an administrator may undo the read-only; a guest not.
	if e.IsVM() && !strings.HasSuffix(out, "probe remount ok\nfile\nsub\n") {
		t.Errorf("a read-only volume was made writable: %s", out)
	}
	e.Equal("volume", e.Read(e.Path("rw/out")), "out\n")
	e.Equal("file volume", e.Read(e.Path("single")), "changed\n")
	e.Equal("read-only volume", e.Read(e.Path("ro/file")), "read-only\n")
	if _, err := os.Stat(filepath.Join(c.Bundle.Rootfs, "missing/deep")); err != nil {
		t.Errorf("the missing destination: %v", err)
	}
	c.Delete()
}

// TestManyVolumes has 50.
func TestManyVolumes(t *testing.T) {
	const n = 50
	e := suite.New(t)
	options := []testenv.Option{testenv.Shell("for i in $(seq 0 49); do cat /v/$i/name && echo $i >/v/$i/back; done")}
	var want strings.Builder
	for i := range n {
		dir := fmt.Sprintf("v/%d", i)
		folders(e, dir)
		e.Write(dir+"/name", fmt.Sprintln(i))
		fmt.Fprintln(&want, i)
		options = append(options, testenv.Bind(e.Path(dir), "/"+dir))
	}
	c := e.Started(nil, options...)
	e.Equal("exit code", c.Wait(exitLimit), 0)
	e.Equal("names", c.Stdout(), want.String())
	for i := range n {
		e.Equal("back", e.Read(e.Path(fmt.Sprintf("v/%d/back", i))), fmt.Sprintln(i))
	}
	c.Delete()
}

// folders makes folders in the test's folder.
func folders(e *testenv.Env, names ...string) {
	e.Helper()
	for _, name := range names {
		if err := os.MkdirAll(e.Path(name), 0o755); err != nil {
			e.Fatal(err)
		}
	}
}
