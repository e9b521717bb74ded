package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// fake is a folder with some files of a cgroup.
func fake(t *testing.T, files map[string]string) Group {
	t.Helper()
	g := Group{Dir: t.TempDir()}
	for name, content := range files {
		path := filepath.Join(g.Dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestWaitEmpty(t *testing.T) {
	g := fake(t, map[string]string{"cgroup.events": "populated 1\nfrozen 0\n"})
	go func() {
		time.Sleep(20 * time.Millisecond)
		os.WriteFile(filepath.Join(g.Dir, "cgroup.events"), []byte("populated 0\nfrozen 0\n"), 0o644)
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := g.WaitEmpty(ctx); err != nil {
		t.Error(err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := g.Freeze(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("freeze that never comes: %v", err)
	}
}

func TestMissing(t *testing.T) {
	g := Group{Dir: filepath.Join(t.TempDir(), "none")}
	pids, perr := g.Pids()
	if err := errors.Join(g.Kill(), g.WaitEmpty(t.Context()), g.Remove(t.Context()), perr); err != nil || pids != nil {
		t.Errorf("a group that is not there: %v, %v", pids, err)
	}
	if g.OOMKills() != 0 {
		t.Error("OOM in a group that is not there")
	}
	if _, err := g.Stats(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stats: %v", err)
	}
}

func TestPids(t *testing.T) {
	g := fake(t, map[string]string{"cgroup.procs": "5\n6\n", "a/cgroup.procs": "7\n", "a/b/cgroup.procs": "", "c/cgroup.procs": "8\n"})
	pids, err := g.Pids()
	slices.Sort(pids)
	if err != nil || !slices.Equal(pids, []int{5, 6, 7, 8}) {
		t.Errorf("got %v, %v", pids, err)
	}
}

func TestOOMKills(t *testing.T) {
	for content, want := range map[string]uint64{
		"low 0\noom 1\noom_kill 0\n": 0, "oom 1\noom_kill 2\noom_group_kill 0\n": 2, "": 0, "oom_kill x\n": 0,
	} {
		if got := fake(t, map[string]string{"memory.events": content}).OOMKills(); got != want {
			t.Errorf("%q: %d, want %d", content, got, want)
		}
	}
}

func TestWaitOOM(t *testing.T) {
	g := fake(t, map[string]string{"memory.events": "oom_kill 1\n"})
	if n, err := g.WaitOOM(t.Context(), 0); err != nil || n != 1 {
		t.Errorf("one that was not known: %d, %v", n, err)
	}
	go os.WriteFile(filepath.Join(g.Dir, "memory.events"), []byte("oom_kill 3\n"), 0o644)
	if n, err := g.WaitOOM(t.Context(), 1); err != nil || n != 3 {
		t.Errorf("two more: %d, %v", n, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.WaitOOM(ctx, 3); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gives up: %v", err)
	}
	none := Group{Dir: filepath.Join(t.TempDir(), "none")}
	if _, err := none.WaitOOM(t.Context(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("a group that is not there: %v", err)
	}
}

func TestStats(t *testing.T) {
	g := fake(t, map[string]string{"cpu.stat": "usage_usec 1\n", "hugetlb.2MB.current": "0\n", "cgroup.kill": "x"})
	got, err := g.Stats()
	if err != nil || len(got) != 2 || got["cpu.stat"] != "usage_usec 1\n" || got["hugetlb.2MB.current"] != "0\n" {
		t.Errorf("got %v, %v", got, err)
	}
}
