package fault

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// small mounts a tmpfs with the options at a folder of the test's, until its
// end, and gives the folder's path.
func (w *world) small(name, options string) string {
	w.Helper()
	dir := w.Path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		w.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			w.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// TestNoSpace has file systems with room for one file more with each try, until
// create succeeds: whatever the first file is that does not fit, folder, lock,
// socket, log, record, stamp or ticket.
func TestNoSpace(t *testing.T) {
	warm(t)
	for _, what := range []string{"state", "cache"} {
		t.Run(what, func(t *testing.T) {
			step := 4
			if everything() {
				step = 1
			}
			for files := 2; ; files += step {
				if files > 60 {
					t.Fatal("create never succeeds")
				}
				if noSpace(t, what, files) {
					t.Logf("create makes at most %d files", files-1)
					return
				}
			}
		})
	}
}

// noSpace creates with room for so many files, and reports whether that has
// succeeded. A failure leaves nothing, and the next try works.
func noSpace(t *testing.T, what string, files int) bool {
	w := newWorld(t)
	w.NeedVM()
	dir := w.small("small", fmt.Sprintf("nr_inodes=%d", files))
	e := *w.Env
	s := &world{Env: &e, trace: w.trace}
	if what == "state" {
		e.Root = dir + "/root"
	} else {
		s = s.configured(testenv.Settings{"hypervisor.cache_dir": `"` + dir + `/cache"`, "hypervisor.template": `"off"`})
	}
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	res := s.call("create", "--bundle", b.Dir, id)
	done := res.Code == 0
	if !done {
		s.FailedWith(res, 1, "no space left on device")
		s.isEmpty()
		if err := w.quiet(); err != nil {
			t.Errorf("room for %d files: %v", files, err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "nr_inodes=1000"); err != nil {
			t.Fatal(err)
		}
		if res := s.call("create", "--bundle", b.Dir, id); res.Code != 0 {
			t.Errorf("room for %d files, and then for more: %s", files, res)
		}
	}
	s.IsStatus(id, "created")
	s.OK("delete", "--force", id)
	s.isEmpty()
	return done
}

// TestNoSpaceForTemplate has a cache that the template does not fit into: the
// machine boots without one, and nothing of it is left.
func TestNoSpaceForTemplate(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	dir := w.small("small", "size=24M")
	s := w.configured(testenv.Settings{"hypervisor.cache_dir": `"` + dir + `/cache"`})
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	if res := s.call("create", "--bundle", b.Dir, id); res.Code != 0 {
		t.Fatal(res)
	}
	entries, err := os.ReadDir(dir + "/cache/templates")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "lock" && e.Name() != "making" && !strings.HasSuffix(e.Name(), ".failed") {
			t.Errorf("left of the template: %s", e.Name())
		}
	}
	s.OK("delete", "--force", id)
}
