package fault

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// FS_IOC_SHUTDOWN of linux/fs.h ends all writing to a file system at once: what
// its journal has not got by then is lost.
const (
	ioctlShutdown = 0x8004587d
	noLogFlush    = 2
)

// TestPowerCut loses the power right after records were written: each of them
// is there, and whole.
func TestPowerCut(t *testing.T) {
	w := newWorld(t)
	run := func(name string, args ...string) {
		t.Helper()
		if res := w.Run(t, testenv.Command{Path: testenv.Tool(t, name), Args: args, Env: os.Environ()}); res.Code != 0 {
			t.Fatal(res)
		}
	}
	file, dir := w.Path("disk"), w.Path("mnt")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(32<<20), f.Close(), os.Mkdir(dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	run("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", file)
	run("mount", "-o", "loop", file, dir)
	defer func() {
		run("umount", dir)
		os.RemoveAll("/run/mount") // mount(8) keeps notes; this /run is the suite's own
	}()

	const records = 10
	s, err := state.Open(dir + "/root")
	if err != nil {
		t.Fatal(err)
	}
	for n := range records {
		id := fmt.Sprintf("c%d", n)
		c := &state.Container{ID: id, Sandbox: id, Bundle: "/b", Status: lifecycle.Creating}
		if err := s.SaveContainer(c); err != nil {
			t.Fatal(err)
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(unix.IoctlSetPointerInt(int(d.Fd()), ioctlShutdown, noLogFlush), d.Close()); err != nil {
		t.Fatal(err)
	}
	run("umount", dir)
	run("mount", "-o", "loop", file, dir)
	for n := range records {
		if _, err := s.Container(fmt.Sprintf("c%d", n)); err != nil {
			t.Error(err)
		}
	}
}
