package fault

import (
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestSoak takes containers through their lives, four at a time, and kills
// something at random in each. VC_SOAK is the number of lives, VC_SEED repeats
// the choices (not their timing).
func TestSoak(t *testing.T) {
	warm(t)
	lives, seed := number(t, "VC_SOAK", 4), number(t, "VC_SEED", 1)
	w := newWorld(t)
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range jobs {
				w.life(rand.New(rand.NewPCG(uint64(seed), uint64(n))))
			}
		})
	}
	for n := range lives {
		jobs <- n
	}
	close(jobs)
	wg.Wait()
	// newWorld compares what there is with before: processes, mounts, descriptors,
	// cgroups, files.
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: expected a number from 1", name, v)
	}
	return n
}

// life is create, start, exec, kill and delete of one container. One of its own
// processes, or a command, is killed on the way.
func (w *world) life(rnd *rand.Rand) {
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	steps := [][]string{
		{"create", "--bundle", b.Dir, id}, {"start", id}, {"exec", id, "true"}, {"kill", id, "KILL"}, {"delete", id},
	}
	fatal := rnd.IntN(len(steps) + 1) // the last one: nothing is killed
	for i, args := range steps {
		armed := w
		if i == fatal {
			armed = w.armed([]string{
				"create.hooks=kill", "start.record=kill", "monitor.exec=kill", "kill.release=kill", "delete.cgroup=kill",
			}[i])
			if i == 2 { // the monitor's points are those of its create: here it is killed from outside
				w.Signal(w.SandboxPids(id).VM, unix.SIGKILL)
			}
		}
		res := armed.call(args...)
		if i < fatal && fatal == len(steps) && res.Code != 0 {
			w.Error(res)
		}
		if res.Code != 0 {
			break
		}
	}
	if res := w.Do("delete", "--force", id); res.Code != 0 {
		w.Error(res)
	}
	if err := b.Overlay.Cycle(); err != nil {
		w.Error(err)
	}
}
