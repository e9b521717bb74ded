package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// sandboxOf gives the sandbox that a monitor is for.
func sandboxOf(t *testing.T, monitor int) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", monitor))
	if err != nil {
		t.Fatal(err)
	}
	args := strings.Split(string(b), "\x00")
	if len(args) < 4 {
		t.Fatalf("pid %d is no monitor: %q", monitor, args)
	}
	return args[3]
}

// waiting counts the machines that wait for their turn.
func (w *world) waiting() int {
	w.Helper()
	tickets, err := filepath.Glob(filepath.Join(suite.Dir, "cache/starts/ticket-*"))
	if err != nil {
		w.Fatal(err)
	}
	return len(tickets)
}

// TestTurns has more machines come than may start at the same time: each waits
// for its turn, and they have it in the order in which they came.
func TestTurns(t *testing.T) {
	warm(t)
	w := newWorld(t).configured(testenv.Settings{"hypervisor.concurrent_starts": "2"})
	w.NeedVM()
	g := w.newGate()
	armed := w.armed("monitor.spawn-vm=" + g.pause())
	const machines = 5
	var ids []string
	var starting []*waiter
	var wg sync.WaitGroup
	over := make(chan struct{})
	for n := range machines {
		id := w.ID()
		ids = append(ids, id)
		b := w.Bundle(testenv.Args("sleep", "1000"))
		wg.Go(func() {
			if res := armed.call("create", "--bundle", b.Dir, id); res.Code != 0 {
				t.Error(res)
			}
		})
		if n < 2 {
			starting = append(starting, g.wait(over))
			continue
		}
		testenv.Eventually(w, testenv.DefaultTimeout, func() error {
			if got := w.waiting(); got != n-1 {
				return fmt.Errorf("%d machines wait, expected %d", got, n-1)
			}
			return nil
		})
	}
	for n := range machines {
		if n >= 2 {
			starting = append(starting, g.wait(over))
		}
		if got := sandboxOf(t, starting[n].pid); got != ids[n] {
			t.Errorf("turn %d is %s's, expected %s", n, got, ids[n])
		}
		if n >= 1 {
			w.Equal("machines that wait", w.waiting(), machines-n-1)
			starting[n-1].let("go")
		}
	}
	starting[machines-1].let("go")
	wg.Wait()
	for _, id := range ids {
		w.OK("delete", "--force", id)
	}
}

// TestOverload has many creates come at once, with a boot_timeout that each of
// them would run into if all had their turn at the same time. VC_FAULTS=all
// makes it 30.
func TestOverload(t *testing.T) {
	warm(t)
	machines, places := 6, 2
	if everything() {
		machines = 30
	}
	w := newWorld(t).configured(testenv.Settings{
		"hypervisor.boot_timeout": `"4s"`, "hypervisor.concurrent_starts": fmt.Sprint(places),
	})
	w.NeedVM()
	begin := time.Now()
	var wg sync.WaitGroup
	ids := make([]string, machines)
	for n := range ids {
		ids[n] = w.ID()
		b := w.Bundle(testenv.Args("sleep", "1000"))
		wg.Go(func() {
			if res := w.call("create", "--bundle", b.Dir, ids[n]); res.Code != 0 {
				t.Error(res)
			}
		})
	}
	wg.Wait()
	t.Logf("%d creates at once: %s", machines, time.Since(begin).Round(time.Second))
	for _, id := range ids {
		w.IsStatus(id, "created")
	}
	if most := w.startedAtOnce(); most > places {
		t.Errorf("%d machines have started at the same time, expected at most %d", most, places)
	}
	for _, id := range ids {
		w.OK("delete", "--force", id)
	}
}

// startedAtOnce finds in the trace how many machines have been between their
// start and their first container at the same time.
func (w *world) startedAtOnce() int {
	starting, most := make(map[string]bool), 0
	for line := range strings.Lines(w.Read(w.trace)) {
		pid, what, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "point monitor.spawn-vm":
			starting[pid] = true
			most = max(most, len(starting))
		case "point monitor.created":
			delete(starting, pid)
		}
	}
	return most
}

// TestNoRoom has less memory than a machine may take.
func TestNoRoom(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	full := w.configured(testenv.Settings{"hypervisor.memory_reserve": `"1000000G"`})
	b, id := w.Bundle(testenv.Args("true")), w.ID()
	res := full.call("create", "--bundle", b.Dir, id)
	w.FailedWith(res, 1, `hypervisor.memory_reserve = "1000000G"`)
	w.FailedWith(res, 1, "MemAvailable")
	w.isEmpty()
	if len(victims("QEMU")) != 0 {
		t.Error("a machine has been started")
	}
}
