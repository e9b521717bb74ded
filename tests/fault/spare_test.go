package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestSpares goes through the steps in a spare's life: where one fails, or the
// monitor or the filler dies, the create starts a machine of its own. Where the
// create itself is killed nothing stays.
func TestSpares(t *testing.T) {
	warm(t)
	// One in each of the processes: where others have to find what is left.
	short := []string{"spare.brief/kill", "spare.ready/error", "spare.hand-over/kill"}
	for _, point := range failpoint.SparePoints {
		for _, fault := range []string{"error", "kill"} {
			name := string(point.Name) + "/" + fault
			if !everything() && !slices.Contains(short, name) {
				continue
			}
			t.Run(name, func(t *testing.T) { spareFault(t, point, fault) })
		}
	}
}

func spareFault(t *testing.T, point failpoint.Point, fault string) {
	w := newWorld(t)
	w.Env = w.Configured(testenv.Settings{"hypervisor.spares": "1"})
	armed := w.armed(string(point.Name) + "=" + fault)
	maker, caller := w, armed
	if point.Process == failpoint.Monitor { // which a spare's maker starts
		maker, caller = armed, w
	}
	made := maker.call("spare", "create")
	if fails := slices.Contains([]failpoint.Name{failpoint.SpareStart, failpoint.SpareRehearse, failpoint.SpareReady}, point.Name); fails == (made.Code == 0) {
		t.Errorf("spare create: %s", made)
	}
	id := w.ID()
	b := w.Bundle(testenv.Args("sleep", "1000"))
	res := caller.call("create", "--bundle", b.Dir, id)
	dies := fault == "kill" && point.Process == failpoint.Command
	switch {
	case dies && res.Code == 0:
		t.Errorf("the create was not killed: %s", res)
	case !dies && res.Code != 0:
		t.Errorf("a broken spare fails the create: %s", res)
	case !dies:
		w.OK("start", id)
		w.OK("exec", id, "true")
	}
	testenv.Eventually(t, time.Minute, func() error { // the filler comes when the create has returned
		if !w.passed(string(point.Name)) {
			return fmt.Errorf("nobody came by %s", point.Name)
		}
		return nil
	})
	w.OK("delete", "--force", id)
	if point.Process == failpoint.Filler {
		noFiller(w, fault)
	}
	w.OK("spare", "rm")
	testenv.Eventually(t, time.Minute, func() error {
		for _, kind := range []string{"monitor", "spares", "QEMU"} {
			if pids := victims(kind); len(pids) != 0 {
				return fmt.Errorf("left behind: %s %v", kind, pids)
			}
		}
		return nil
	})
	w.noSpares()
}

// noFiller waits for the end of a filler that has failed. It has cleaned up
// itself and says why there is no spare; doctor finds what a killed one leaves.
func noFiller(w *world, fault string) {
	w.Helper()
	testenv.Eventually(w, time.Minute, func() error {
		if pids := append(victims("spares"), victims("monitor")...); len(pids) != 0 {
			return fmt.Errorf("still there: %v", pids)
		}
		return nil
	})
	if fault == "error" {
		if log := w.Read(filepath.Join(w.Root, "spares/log")); strings.Count(log, "\n") != 1 || !strings.Contains(log, failpoint.ErrInjected.Error()) {
			w.Errorf("log of the spares: %q", log)
		}
	} else {
		w.Do("doctor", "--fix")
	}
	w.OK("doctor")
	w.noSpares()
}

// noSpares looks for the folders of spares.
func (w *world) noSpares() {
	w.Helper()
	entries, err := os.ReadDir(filepath.Join(w.Root, "spares"))
	if err != nil && !os.IsNotExist(err) {
		w.Error(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			w.Errorf("left behind: %s", e.Name())
		}
	}
}
