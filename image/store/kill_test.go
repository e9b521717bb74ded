package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// roleVar makes the test binary play the life of an image, and kill itself at
// one step of it.
const roleVar = "STORE_TEST_KILL_AT"

func TestMain(m *testing.M) {
	if at := os.Getenv(roleVar); at != "" {
		os.Exit(playLife(os.Args[1], at))
	}
	os.Exit(m.Run())
}

// playLife does everything that changes a store. It prints the steps, or ends
// by SIGKILL at one of them.
func playLife(root, at string) int {
	last, err := strconv.Atoi(at)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	n := 0
	s, err := Open(root, Options{Hook: func(step string) error {
		if n == last {
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		n++
		fmt.Println(step)
		return nil
	}})
	if err == nil {
		err = life(context.Background(), s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// life pulls, runs, removes and collects.
func life(ctx context.Context, s *Store) error {
	one := newSample("one", "base", "top")
	l, err := one.add(ctx, s)
	if l != nil {
		defer l.Close()
	}
	if err != nil {
		return err
	}
	if err := l.Pin(ctx, "c1", one.img); err != nil {
		return err
	}
	if err := l.Close(); err != nil {
		return err
	}
	if err := s.RemoveImage(ctx, one.img.Name); err != nil {
		return err
	}
	if _, err := s.GC(ctx, GCOptions{}); err != nil {
		return err
	}
	if err := s.Unpin(ctx, "c1"); err != nil {
		return err
	}
	_, err = s.GC(ctx, GCOptions{})
	return err
}

// play runs the life in a process of its own, killed at a step, and gives the
// steps before it.
func play(t *testing.T, root string, at int) (steps []string, killed bool) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", root)
	cmd.Env = append(os.Environ(), roleVar+"="+strconv.Itoa(at))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	exit, _ := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
	case exit != nil && exit.Sys().(interface{ Signal() unix.Signal }).Signal() == unix.SIGKILL:
		killed = true
	default:
		t.Fatalf("at step %d: %v", at, err)
	}
	return lines(string(out)), killed
}

func TestKilledAtEveryStep(t *testing.T) {
	all, killed := play(t, folder(t), -1)
	if killed || len(all) < 100 {
		t.Fatalf("killed %v after %d steps", killed, len(all))
	}
	for n := range all {
		root := folder(t)
		steps, killed := play(t, root, n)
		if !killed || len(steps) != n {
			t.Fatalf("step %d: killed %v after %d steps", n, killed, len(steps))
		}
		s, err := Open(root, Options{})
		if err != nil {
			t.Fatalf("killed at %s: %v", all[n], err)
		}
		recovers(t, s)
		if t.Failed() {
			t.Fatalf("killed at %s (step %d)", all[n], n)
		}
	}
}

// recovers checks that the store is whole, that the same can be done again, and that
// nothing stays behind.
func recovers(t *testing.T, s *Store) {
	t.Helper()
	clean(t, s)
	one := newSample("one", "base", "top")
	one.mustAdd(t, s).Close()
	one.intact(t, s)
	if err := s.RemoveImage(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	// The container that the killed process was about to make does not exist.
	if _, err := s.GC(t.Context(), GCOptions{Known: func(string) (bool, error) { return false, nil }}); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{blobsDir + "/sha256", layersDir, imagesDir, containersDir, leasesDir, tmpDir, partialDir, trashDir, locksDir} {
		if entries, err := os.ReadDir(s.path(dir)); err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
	if r := mustGC(t, s); !r.Empty() {
		t.Errorf("a second collection has taken %+v", r)
	}
}

// A step that fails, as on a full or broken disk, leaves no less than a kill.
func TestErrorAtEveryStep(t *testing.T) {
	broken := errors.New("broken disk")
	all, _ := play(t, folder(t), -1)
	for n := range all {
		s := newStore(t, Options{})
		count := 0
		err := life(t.Context(), again(t, s, func(string) error {
			if count++; count == n+1 {
				return broken
			}
			return nil
		}))
		if count <= n {
			break // the list has the steps of making the store as well
		}
		if !errors.Is(err, broken) {
			t.Errorf("an error at step %d: %v", n, err)
		}
		if err := s.Unpin(t.Context(), "c1"); err != nil { // its maker lives
			t.Error(err)
		}
		recovers(t, s)
		if t.Failed() {
			t.Fatalf("at step %d", n)
		}
	}
}

func lines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}
