package images

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/registrytest"
)

// pullKilled pulls in a process of its own that is killed at a step.
func pullKilled(t *testing.T, root, name string, at int) (steps []string, killed bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", root, name)
	cmd.Env = append(os.Environ(), pullVar+"="+strconv.Itoa(at))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
	case exit != nil && exit.Sys().(interface{ Signal() unix.Signal }).Signal() == unix.SIGKILL:
		killed = true
	default:
		t.Fatalf("a pull, at step %d: %v", at, err)
	}
	return lines(string(out)), killed
}

// memory is a folder whose syncs cost nothing.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "images-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Before and after every write, sync, rename and lock of a pull.
func TestPullKilledAtEveryStep(t *testing.T) {
	r := registrytest.New(t)
	r.Add("x", "latest", sample(t))
	name := r.Host() + "/x:latest"
	all, killed := pullKilled(t, memory(t), name, -1)
	if killed || len(all) < 80 {
		t.Fatalf("killed %v after %d steps", killed, len(all))
	}
	for n := range all {
		root := memory(t)
		steps, killed := pullKilled(t, root, name, n)
		if !killed {
			continue // two workers have met, and one had nothing to do
		}
		recovers(t, root, name)
		if t.Failed() {
			t.Fatalf("killed after %q", steps)
		}
	}
}

// Eight processes: every blob is asked for once.
func TestEightProcesses(t *testing.T) {
	r := registrytest.New(t)
	r.Add("x", "latest", sample(t))
	root, name := memory(t), r.Host()+"/x:latest"
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { pullKilled(t, root, name, -1) })
	}
	wg.Wait()
	gets := r.Gets()
	if len(gets) != 3 {
		t.Errorf("blobs asked for: %v", gets)
	}
	for d, n := range gets {
		if n != 1 {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
	recovers(t, root, name)
}
