package integration

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestHostileRootfs has a rootfs whose symlinks lead out of it in place of
// everything that a runtime writes to. Nothing outside may be touched.
func TestHostileRootfs(t *testing.T) {
	t.Run("all", func(t *testing.T) { hostileRootfs(t, "dev", "sys") })
	// A runtime may refuse the former; this one gets as far as the volumes.
	// crun wants a link to lead somewhere in the rootfs.
	t.Run("volumes", func(t *testing.T) { hostileRootfs(t) })
}

func hostileRootfs(t *testing.T, more ...string) {
	e := suite.New(t)
	folders(e, "outside/dir", "volume")
	e.Write("outside/file", "untouched\n")
	e.Write("volume/inside", "inside\n")
	outside := e.Path("outside")
	before := listing(t, outside)

	b := e.PlainBundle(
		testenv.Shell("ls -l / >/dev/null; cat /mnt/inside; ls /abs/dir /abs/file; echo x >/abs/file; cat /up/file; exit 0"),
		testenv.Bind(e.Path("volume"), "/mnt"),
		testenv.Bind(e.Path("volume"), "/abs/dir/volume"),
		testenv.Bind(e.Path("volume/inside"), "/up/file"))
	// The binaries are real, everything else leads astray.
	if err := os.Mkdir(filepath.Join(b.Rootfs, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sh", "ls", "cat"} {
		if err := os.Link(filepath.Join(e.Base, "bin/busybox"), filepath.Join(b.Rootfs, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(b.Rootfs, outside, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	up := strings.Repeat("../", 12) + outside[1:]
	links := map[string]string{
		"abs": outside, "up": up, "mnt": outside + "/dir", "etc": outside, "tmp": outside, "run": up,
		"rootfs": "/", "m": "/", // not var, where outside is: that would be a loop
	}
	for _, name := range more {
		links[name] = up + "/dir"
	}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(b.Rootfs, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(b.Rootfs, "proc"), 0o755); err != nil {
		t.Fatal(err)
	}

	// Whether such a container can run is the runtime's choice.
	if c, res := e.TryCreate(b, nil); res.Code == 0 {
		c.Start()
		c.Wait(exitLimit)
		t.Logf("it ran: %s%s", c.Stdout(), c.Stderr())
		c.Delete()
	} else {
		t.Logf("it was refused: %s", res)
	}
	if after := listing(t, outside); after != before {
		t.Errorf("outside of the rootfs: before:\n%s\nafter:\n%s", before, after)
	}
	e.Equal("a file outside", e.Read(e.Path("outside/file")), "untouched\n")
}

// listing describes all of a folder.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(path + " " + info.Mode().String() + " " + info.ModTime().String() + "\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestEscape looks from a container with all rights over its guest for the
// host's files, and for what else the guest may not see.
func TestEscape(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e.Write("secret", "secret\n")
	folders(e, "volume")
	c := e.Started(nil,
		testenv.Capabilities("CAP_SYS_ADMIN", "CAP_SYS_RAWIO", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_MODULE"),
		testenv.Bind(e.Path("volume"), "/volume"),
		testenv.Shell(`cd /volume
i=0; while [ $i -lt 20 ]; do cd ..; i=$((i+1)); done; pwd
cat `+strings.Repeat("../", 20)+e.Path("secret")[1:]+`
ln -s `+e.Path("secret")+` /volume/link; cat /volume/link
ln -s ../../../../../../../../`+e.Path("secret")+` /volume/uplink; cat /volume/uplink
mkdir /t
for tag in $(cat /sys/fs/virtiofs/*/tag /sys/bus/virtio/devices/*/tag 2>/dev/null) share rootfs; do mount -t virtiofs $tag /t && find /t | head -n 1000; done
find / -xdev -name secret
exit 0`))
	e.Equal("exit code", c.Wait(exitLimit), 0)
	if out := c.Stdout(); !strings.HasPrefix(out, "/\n") || strings.Contains(out, "secret") {
		t.Errorf("the host's file was seen: %s", out)
	}
	// The links are the guest's business, as what they are.
	if to, err := os.Readlink(e.Path("volume/link")); err != nil || to != e.Path("secret") {
		t.Errorf("link: %q, %v", to, err)
	}
	c.Delete()
	e.Equal("the host's file", e.Read(e.Path("secret")), "secret\n")
}

// TestAnnotations may not steer paths or arguments.
func TestAnnotations(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	marker := e.Path("marker")
	script := e.Write("evil", "#!/bin/sh\ntouch "+marker+"\n")
	if err := os.Chmod(script, 0o755); err != nil {
		t.Fatal(err)
	}
	var options []testenv.Option
	for _, key := range []string{
		"hypervisor.qemu", "hypervisor.path", "hypervisor.guest_image", "share.virtiofsd",
		"runtime.guest_hook_path", "hypervisor.kernel_params",
	} {
		options = append(options,
			testenv.Annotation("io.vc-runtime."+key, script),
			testenv.Annotation("io.katacontainers.config."+key, script))
	}
	c, res := e.TryCreate(e.Bundle(append(options, testenv.Args("true"))...), nil)
	if res.Code == 0 {
		c.Start()
		c.Wait(exitLimit)
		c.Delete()
	}
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Error("an annotation's program was run")
	}
}
