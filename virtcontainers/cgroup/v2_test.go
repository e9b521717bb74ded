package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeV2 makes a folder that looks like a v2 hierarchy with two levels.
func fakeV2(t *testing.T, files map[string]string) host {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return host{{mount: root, root: "/", own: "/own", init: "/"}}
}

func TestV2OnFixtureControllersAreGivenDown(t *testing.T) {
	h := fakeV2(t, map[string]string{
		"cgroup.controllers": "cpu pids\n", "cgroup.subtree_control": "cpu\n",
		"a/cgroup.controllers": "cpu\n", "a/cgroup.subtree_control": "",
		"a/b/cgroup.controllers": "cpu\n", "a/b/cgroup.subtree_control": "",
	})
	for _, c := range []struct {
		enable bool
		want   map[string]string
	}{
		{false, map[string]string{".": "cpu\n", "a": "", "a/b": ""}},
		// The kernel adds what is written; a plain file is overwritten.
		{true, map[string]string{".": "+pids", "a": "+cpu", "a/b": ""}},
	} {
		cg, err := newOn(h, Placement{Path: "/a/b"}, noUnits{t})
		if err != nil {
			t.Fatal(err)
		}
		if err := cg.Groups[0].create(c.enable); err != nil {
			t.Fatal(err)
		}
		for dir, want := range c.want {
			b, err := os.ReadFile(filepath.Join(h[0].mount, dir, "cgroup.subtree_control"))
			if err != nil || string(b) != want {
				t.Errorf("enable %v: %s: %q, %v, want %q", c.enable, dir, b, err, want)
			}
		}
	}
}

func TestV2OnFixtureLimits(t *testing.T) {
	h := fakeV2(t, map[string]string{
		"a/cgroup.controllers": "cpu memory\n", "a/memory.max": "", "a/cpu.weight": "",
	})
	c, err := newOn(h, Placement{Path: "/a"}, noUnits{t})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Create(shortly(t), 0, Limits{Memory: 1 << 20, CPUShares: 1024}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"memory.max": "1048576", "cpu.weight": "100"} {
		if b, err := os.ReadFile(filepath.Join(h[0].mount, "a", name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestV2OnFixtureStats(t *testing.T) {
	h := fakeV2(t, map[string]string{
		"a/cpu.stat":       "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n",
		"a/memory.current": "4096\n", "a/memory.peak": "8192\n", "a/pids.current": "7\n",
	})
	c, err := newOn(h, Placement{Path: "/a"}, noUnits{t})
	if err != nil {
		t.Fatal(err)
	}
	want := Stats{CPU: 1500 * time.Microsecond, Memory: 4096, MemoryPeak: 8192, Pids: 7}
	if got, err := c.Stats(); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(h[0].mount, "a/pids.current"), []byte("many\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stats(); err == nil {
		t.Error("rubbish is taken for a number")
	}
}
