package integration

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestDebian runs a whole distribution: its package manager reads and writes
// the rootfs, and what it changed is on the host afterwards.
func TestDebian(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	debian := filepath.Join(filepath.Dir(suite.Guest), "debian")
	if _, err := os.Stat(filepath.Join(debian, "etc/debian_version")); err != nil {
		t.Fatalf("a Debian tree is missing: run `make debian`: %v", err)
	}
	b := e.PlainBundle(testenv.Shell(`set -e
		apt-get --version | head -n 1
		[ $(dpkg-query -W | wc -l) -gt 50 ]
		dpkg --purge --force-all tzdata 2>&1 | tail -n 1
		perl -e 'print "perl\n"'
		find / -xdev | wc -l`))
	dirs := map[string]string{}
	for _, name := range []string{"upper", "work"} {
		dirs[name] = e.Path(name)
		if err := os.Mkdir(dirs[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func() error {
		return unix.Mount("overlay", b.Rootfs, "overlay", 0,
			"index=on,lowerdir="+debian+",upperdir="+dirs["upper"]+",workdir="+dirs["work"])
	}
	if err := mount(); err != nil {
		t.Fatal(err)
	}
	id := e.ID()
	res := e.Do("run", "--bundle", b.Dir, id)
	if res.Code != 0 {
		t.Error(res)
	}
	t.Logf("%s%s", res.Stdout, res.Took)
	if err := unix.Unmount(b.Rootfs, 0); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if err := mount(); err != nil {
		t.Errorf("mount the same upper folder again: %v", err)
	} else if err := unix.Unmount(b.Rootfs, 0); err != nil {
		t.Errorf("unmount: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dirs["upper"], "var/lib/dpkg/status")); err != nil {
		t.Errorf("what dpkg wrote is not on the host: %v", err)
	}
}
