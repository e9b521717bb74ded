package fault

import (
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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
	lives, seed := testenv.Number(t, "VC_SOAK", 4), testenv.Number(t, "VC_SEED", 1)
	w := newWorld(t)
	resident := w.Started(nil, testenv.Args("sleep", "1000")) // lives through all of it
	early := min(lives/2, 20)                                 // what grows from then on grows for ever
	var before growth
	jobs := make(chan int)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range jobs {
				w.life(rand.New(rand.NewPCG(uint64(seed), uint64(n))))
				if res := w.Do("exec", resident.ID, "true"); res.Code != 0 {
					t.Error(res)
				}
			}
		})
	}
	for n := range lives {
		if n == early {
			before = w.growth(resident)
		}
		jobs <- n
	}
	close(jobs)
	wg.Wait()
	// newWorld compares what there is with before: processes, mounts, descriptors,
	// cgroups, files. That of the state and the cache is not in it.
	after := w.growth(resident)
	resident.DeleteForced()
	t.Logf("%d lives; after %d of them: %+v; at the end: %+v", lives, early, before, after)
	if after.Cache > before.Cache+4 { // tickets of those that were being killed
		t.Errorf("the cache has grown from %d files to %d", before.Cache, after.Cache)
	}
	const running = 4 * 10 // what four execs have open while they run
	if after.Files > before.Files+running {
		t.Errorf("monitor and shim of a container that has lived all the time had %d files open, and have %d now", before.Files, after.Files)
	}
	const heap = 16 << 10 // kB: one that has been larger is given back slowly
	if after.Memory > before.Memory+heap {
		t.Errorf("monitor and shim of a container that has lived all the time took %d kB, and take %d now", before.Memory, after.Memory)
	}
}

// growth is what many lives might leave: files of the cache; files that monitor and
// shim of a container have open which lives through all of it, and the kB of memory
// that they have to themselves; and in kB of /proc/meminfo, for the log, what the
// host's kernel and files in memory take.
type growth struct{ Cache, Files, Memory, Slab, Shmem int }

func (w *world) growth(resident *testenv.Container) growth {
	w.Helper()
	var g growth
	for _, pid := range []int{w.SandboxPids(resident.ID).Monitor, resident.Pid} {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			w.Error(err)
		}
		g.Files += len(open)
		for line := range strings.Lines(w.Read(fmt.Sprintf("/proc/%d/status", pid))) {
			if f := strings.Fields(line); f[0] == "RssAnon:" {
				n, _ := strconv.Atoi(f[1])
				g.Memory += n
			}
		}
	}
	filepath.WalkDir(filepath.Join(suite.Dir, "cache"), func(string, fs.DirEntry, error) error { g.Cache++; return nil })
	for line := range strings.Lines(w.Read("/proc/meminfo")) {
		f := strings.Fields(line)
		n, _ := strconv.Atoi(f[1])
		switch f[0] {
		case "Slab:":
			g.Slab = n
		case "Shmem:":
			g.Shmem = n
		}
	}
	return g
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
	// It can be unmounted at once. That its upper layer can be mounted again may take a
	// moment: while any other process leaves a mount namespace, as the file servers of
	// other lives do here, the copy of the mount in that one still counts (Linux,
	// namespace_unlock waits for RCU before it lets go).
	if err := b.Overlay.Unmount(); err != nil {
		w.Error(err)
		return
	}
	testenv.Eventually(w, testenv.DefaultTimeout, b.Overlay.Mount)
}
