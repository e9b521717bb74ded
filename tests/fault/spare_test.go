package fault

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// TestSpares goes through the steps in a spare's life: where one fails, or the
// monitor or the filler dies, the create starts a machine of its own. Where the
// create itself is killed, or fails with a machine that is its own, nothing stays.
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
	w.Env = w.Configured(testenv.Settings{"hypervisor.spares": "1", "hypervisor.spare_delay": `"0s"`})
	armed := w.armed(string(point.Name) + "=" + fault)
	maker, caller := w, armed
	if point.Process == failpoint.Monitor { // which a spare's maker starts
		maker, caller = armed, w
	}
	made := maker.call("spare", "create")
	fails := slices.Contains([]failpoint.Name{failpoint.SpareStart, failpoint.SpareRehearse, failpoint.SpareReady}, point.Name) ||
		point.Name == failpoint.SparePlug && fault == "kill" // else it does without
	if fails == (made.Code == 0) {
		t.Errorf("spare create: %s", made)
	}
	id := w.ID()
	b := w.Bundle(testenv.Args("sleep", "1000"))
	res := caller.call("create", "--bundle", b.Dir, id)
	dies := fault == "kill" && point.Process == failpoint.Command
	late := point.Name == failpoint.SpareServe // the container's own server, in a machine that is the sandbox's
	switch {
	case dies && res.Code == 0:
		t.Errorf("the create was not killed: %s", res)
	case late && (res.Code == 0 || fault == "error" && !strings.Contains(res.Stderr, "attach the shared files to the VM")):
		t.Errorf("without its files the create gives %s", res)
	case !dies && !late && res.Code != 0:
		t.Errorf("a broken spare fails the create: %s", res)
	case !dies && !late:
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

// TestSpareBrokenForMember has a container join a pod whose machine is a spare that
// turns out not to work just then, or whose monitor is killed: both containers end
// up in one other machine, whoever of the two is the first to see that one is
// needed, and nothing of the spare is left.
func TestSpareBrokenForMember(t *testing.T) {
	if !everything() {
		t.Skip("NOT RUN: needs VC_FAULTS=all (`make fault`): makes a spare machine for each of its four cases")
	}
	warm(t)
	for _, fault := range []string{"error", "kill"} {
		for _, first := range []string{"claimant", "member"} {
			t.Run(fault+"/"+first, func(t *testing.T) { spareBrokenForMember(t, fault, first) })
		}
	}
}

func spareBrokenForMember(t *testing.T, fault, first string) {
	w := newWorld(t)
	w.Env = w.Configured(testenv.Settings{"hypervisor.spares": "1", "hypervisor.spare_delay": `"0s"`})
	adopt, late := w.newGate(), w.newGate()
	if res := w.armed(string(failpoint.SpareAdopt)+"="+adopt.pause()).call("spare", "create"); res.Code != 0 {
		t.Fatal(res)
	}
	pod := &matrix{world: w, pod: w.ID(), netns: w.netns()}
	// Who is to be late waits before it takes the sandbox's lock for the second time.
	begin := func(who string) (id string, over chan struct{}) {
		caller := w
		if who != first {
			caller = w.armed(string(failpoint.CreateLockSandbox) + "@2=" + late.pause())
		}
		b, id := w.Bundle(append(pod.member(), testenv.Args("sleep", "1000"))...), w.ID()
		over = make(chan struct{})
		go func() {
			defer close(over)
			if res := caller.call("create", "--bundle", b.Dir, id); res.Code != 0 {
				t.Errorf("the %s: %s", who, res)
			}
		}()
		return id, over
	}
	claimant, claimed := begin("claimant")
	spare := adopt.wait(claimed)
	if spare == nil {
		t.Fatal("the spare was not handed over")
	}
	member, joined := begin("member")
	testenv.Eventually(t, testenv.DefaultTimeout, func() error {
		if !strings.Contains(w.Read(w.trace), " await "+string(monitor.OpClaim)+"\n") {
			return errors.New("the member has not asked for its place")
		}
		return nil
	})
	spare.let(fault)
	p := late.wait(nil)
	if p == nil {
		t.Fatalf("the %s needs no other machine", first)
	}
	<-map[string]chan struct{}{"claimant": claimed, "member": joined}[first]
	p.let("go")
	<-claimed
	<-joined
	if t.Failed() {
		return
	}
	w.OK("spare", "rm") // the next one
	for _, id := range []string{claimant, member} {
		w.OK("start", id)
		w.OK("exec", id, "true")
	}
	w.Equal("machines", victims("QEMU"), []int{w.SandboxPids(pod.pod).VM})
	w.OK("doctor") // which knows a spare's cgroup
	w.OK("delete", "--force", claimant)
	w.IsStatus(member, "running")
	w.OK("delete", "--force", member)
	testenv.Eventually(t, time.Minute, w.quiet)
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
