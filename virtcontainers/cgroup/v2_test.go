package cgroup

import (
	"os"
	"path/filepath"
	"testing"
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
