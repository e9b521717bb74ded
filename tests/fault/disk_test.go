package fault

import (
	"fmt"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestFullDisk has the disk of the state full at one write after another, of
// the command's and the monitor's records, until there is none any more.
func TestFullDisk(t *testing.T) {
	warm(t)
	steps := []string{"state.write"}
	if everything() {
		steps = []string{"state.folder", "state.write", "state.sync", "state.rename", "state.sync-folder"}
	}
	for _, step := range steps {
		t.Run(step, func(t *testing.T) {
			for n := 1; ; n++ {
				if n > 20 {
					t.Fatal("create never succeeds")
				}
				if fullAt(t, fmt.Sprintf("%s@%d=error:ENOSPC", step, n)) {
					t.Logf("create writes %d times", n-1)
					return
				}
			}
		})
	}
	t.Run("delete", func(t *testing.T) {
		w := newWorld(t)
		b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
		if res := w.call("create", "--bundle", b.Dir, id); res.Code != 0 {
			t.Fatal(res)
		}
		full := w.armed("state.folder=error:ENOSPC", "state.write=error:ENOSPC", "state.sync=error:ENOSPC")
		if res := full.call("start", id); res.Code == 0 {
			t.Errorf("start could not record anything: %s", res)
		}
		if res := full.call("kill", id, "KILL"); res.Code != 0 {
			full.FailedWith(res, 1, "container not running") // start has stopped it
		}
		w.IsStatus(id, "stopped")
		if res := full.call("delete", "--force", id); res.Code != 0 {
			t.Error(res)
		}
	})
}

// fullAt creates with one write that fails, and reports whether create has
// succeeded all the same, since there are fewer. A failure leaves nothing.
func fullAt(t *testing.T, arm string) bool {
	w := newWorld(t)
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	res := w.armed(arm).call("create", "--bundle", b.Dir, id)
	if res.Code == 0 {
		w.IsStatus(id, "created")
		w.OK("delete", "--force", id)
		return true
	}
	w.FailedWith(res, 1, "no space left on device")
	w.isEmpty()
	if err := w.quiet(); err != nil {
		t.Errorf("%s: %v", arm, err)
	}
	if res := w.call("create", "--bundle", b.Dir, id); res.Code != 0 {
		t.Errorf("%s, and the same again: %s", arm, res)
	}
	w.OK("delete", "--force", id)
	return false
}

// TestBrokenConfig has a configuration that cannot be read any more after the
// container was made.
func TestBrokenConfig(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	if res := w.call("create", "--bundle", b.Dir, id); res.Code != 0 {
		t.Fatal(res)
	}
	w.Config = w.Write("broken.toml", "[runtime\nstop_grace = forever")
	w.IsStatus(id, "created")
	w.OK("list")
	w.Fails("configuration", "start", id)
	w.OK("kill", id, "KILL")
	w.IsStatus(id, "stopped")
	w.OK("delete", id)
}
