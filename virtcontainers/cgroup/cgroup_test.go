package cgroup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// realHosts gives this machine's hierarchies all together, and its v2 one
// alone, as it would be on a v2 host but for the controllers.
func realHosts(t *testing.T) map[string]host {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: making cgroups needs root")
	}
	h, err := readHost()
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	hosts := map[string]host{"as it is": h}
	for _, hy := range h {
		if hy.controllers == "" && len(h) > 1 {
			hosts["v2 without controllers"] = host{hy}
		}
	}
	return hosts
}

// testName gives the name of a cgroup that only this test has.
func testName(t *testing.T) string {
	return fmt.Sprintf("vctest-%d-%d", os.Getpid(), time.Now().UnixNano())
}

// newTest makes a Cgroup of a unique path and sees to its end.
func newTest(t *testing.T, h host, p Placement) *Cgroup {
	t.Helper()
	c, err := newOn(h, p, noUnits{t})
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range c.Groups {
		if !g.Made || !strings.Contains(g.Dir, "/vctest-") {
			t.Fatalf("%s is not for a test to make", g.Dir)
		}
		t.Cleanup(func() { os.Remove(g.Dir) }) // rmdir(2), of what Remove has left
	}
	return c
}

type noUnits struct{ t *testing.T }

func (u noUnits) start(context.Context, string, []dbus.Property) error {
	u.t.Error("systemd was asked")
	return nil
}

func (u noUnits) set(context.Context, string, []dbus.Property) error {
	u.t.Error("systemd was asked")
	return nil
}

func (u noUnits) stop(context.Context, string) error {
	u.t.Error("systemd was asked")
	return nil
}

func process(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "300")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cmd) })
	return cmd
}

func end(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func shortly(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// membershipOf gives a process's cgroup by controllers.
func membershipOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	ms, err := parseMembership(b)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range ms {
		got[m.controllers] = m.path
	}
	return got
}

func exists(dir string) bool {
	_, err := os.Lstat(dir)
	return err == nil
}

func TestLifeOfACgroup(t *testing.T) {
	for name, h := range realHosts(t) {
		t.Run(name, func(t *testing.T) {
			ctx, want := shortly(t), "/"+testName(t)
			c := newTest(t, h, Placement{Path: want})
			first := process(t)
			second := process(t)
			if err := c.Create(ctx, first.Process.Pid, Limits{}); err != nil {
				t.Fatal(err)
			}
			if err := c.Add(ctx, second.Process.Pid); err != nil {
				t.Fatal(err)
			}
			for _, p := range []*exec.Cmd{first, second} {
				got := membershipOf(t, p.Process.Pid)
				for _, g := range c.Groups {
					if got[g.Controllers] != want {
						t.Errorf("process %d: %q is %s, want %s", p.Process.Pid, g.Controllers, got[g.Controllers], want)
					}
				}
			}
			pids, err := c.Pids()
			if err != nil || !cmp.Equal(pids, []int{first.Process.Pid, second.Process.Pid}, cmpopts.SortSlices(func(a, b int) bool { return a < b })) {
				t.Errorf("pids %v, %v", pids, err)
			}

			// Another command remembers it.
			record, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			c, err = Load(record)
			if err != nil {
				t.Fatal(err)
			}
			end(first)
			time.AfterFunc(200*time.Millisecond, func() { second.Process.Kill() })
			begin := time.Now()
			if err := c.Remove(ctx); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took < 150*time.Millisecond {
				t.Errorf("Remove took %s: it did not wait", took)
			}
			for _, g := range c.Groups {
				if exists(g.Dir) {
					t.Errorf("%s is left", g.Dir)
				}
			}
			if err := c.Remove(ctx); err != nil {
				t.Errorf("again: %v", err)
			}
			if pids, err := c.Pids(); len(pids) != 0 || err != nil {
				t.Errorf("pids of none: %v, %v", pids, err)
			}
		})
	}
}

// The default is a cgroup below the caller's own, where a relative path leads.
func TestRelativePlacement(t *testing.T) {
	for name, h := range realHosts(t) {
		t.Run(name, func(t *testing.T) {
			ctx, id := shortly(t), testName(t)
			p, err := Place("", id, false)
			if err != nil {
				t.Fatal(err)
			}
			c := newTest(t, h, p)
			proc := process(t)
			before := membershipOf(t, proc.Process.Pid)
			if err := c.Create(ctx, proc.Process.Pid, Limits{}); err != nil {
				t.Fatal(err)
			}
			after := membershipOf(t, proc.Process.Pid)
			for _, g := range c.Groups {
				own := before[g.Controllers]
				if h.unified() {
					own = filepath.Dir(own)
				}
				if want := filepath.Join(own, id); after[g.Controllers] != want {
					t.Errorf("%q: %s, want %s", g.Controllers, after[g.Controllers], want)
				}
			}
			end(proc)
			if err := c.Remove(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// Only what Create has made is removed, whoever made the rest and whenever.
func TestRemoveLeavesWhatOthersMade(t *testing.T) {
	for name, h := range realHosts(t) {
		for _, when := range []string{"before New", "between New and Create"} {
			t.Run(name+", "+when, func(t *testing.T) {
				ctx, path := shortly(t), "/"+testName(t)
				theirs := filepath.Join(h[0].mount, path)
				make := func() {
					if err := os.Mkdir(theirs, 0o755); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { os.Remove(theirs) })
				}
				if when == "before New" {
					make()
				}
				c, err := newOn(h, Placement{Path: path}, noUnits{t})
				if err != nil {
					t.Fatal(err)
				}
				if when != "before New" {
					make()
				}
				if err := c.Create(ctx, 0, Limits{}); err != nil {
					t.Fatal(err)
				}
				// Their process is none of ours to wait for.
				theirProcess := process(t)
				if err := c.Groups[0].add(ctx, theirProcess.Process.Pid); err != nil {
					t.Fatal(err)
				}
				defer end(theirProcess)
				if err := c.Remove(ctx); err != nil {
					t.Error(err)
				}
				for i, g := range c.Groups {
					if got := exists(g.Dir); got != (i == 0) {
						t.Errorf("%s exists: %v", g.Dir, got)
					}
				}
			})
		}
	}
}

// A command that is killed anywhere in Create has recorded what New gave.
func TestRemoveOfWhatWasNeverFinished(t *testing.T) {
	for name, h := range realHosts(t) {
		for made := range len(h) + 1 {
			t.Run(fmt.Sprintf("%s, %d made", name, made), func(t *testing.T) {
				c := newTest(t, h, Placement{Path: "/" + testName(t)})
				record, err := json.Marshal(c)
				if err != nil {
					t.Fatal(err)
				}
				for i := range made {
					if err := c.Groups[i].create(true); err != nil {
						t.Fatal(err)
					}
				}
				again, err := Load(record)
				if err != nil {
					t.Fatal(err)
				}
				if err := again.Remove(shortly(t)); err != nil {
					t.Error(err)
				}
				for _, g := range c.Groups {
					if exists(g.Dir) {
						t.Errorf("%s is left", g.Dir)
					}
				}
			})
		}
	}
}

func TestRemoveOfABusyCgroup(t *testing.T) {
	for name, h := range realHosts(t) {
		t.Run(name, func(t *testing.T) {
			c := newTest(t, h, Placement{Path: "/" + testName(t)})
			proc := process(t)
			if err := c.Create(shortly(t), proc.Process.Pid, Limits{}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			defer cancel()
			err := c.Remove(ctx)
			if !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("error %v", err)
			}
			if want := fmt.Sprintf("process %d (sleep)", proc.Process.Pid); !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not name %s", err, want)
			}
			// A nested cgroup is not ours to remove, and is an error at once.
			end(proc)
			nested := filepath.Join(c.Groups[0].Dir, "vctest-nested")
			if err := os.Mkdir(nested, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := c.Remove(shortly(t)); !errors.Is(err, ErrNested) {
				t.Errorf("error %v", err)
			}
			if err := os.Remove(nested); err != nil {
				t.Fatal(err)
			}
			if err := c.Remove(shortly(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Folders above the cgroup's own are shared, and stay.
func TestParentsStay(t *testing.T) {
	for name, h := range realHosts(t) {
		t.Run(name, func(t *testing.T) {
			parent := "/" + testName(t)
			for _, hy := range h {
				t.Cleanup(func() { os.Remove(filepath.Join(hy.mount, parent)) })
			}
			proc := process(t)
			c := newTest(t, h, Placement{Path: parent + "/c1"})
			if err := c.Create(shortly(t), proc.Process.Pid, Limits{}); err != nil {
				t.Fatal(err)
			}
			end(proc)
			if err := c.Remove(shortly(t)); err != nil {
				t.Fatal(err)
			}
			for _, hy := range h {
				if !exists(filepath.Join(hy.mount, parent)) {
					t.Errorf("%s%s is gone", hy.mount, parent)
				}
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, record := range map[string]string{
		"nothing":         ``,
		"no groups":       `{"groups":[]}`,
		"unknown field":   `{"groups":[{"controllers":"","mount":"/m","dir":"/m/a","made":true}],"x":1}`,
		"outside":         `{"groups":[{"controllers":"","mount":"/m","dir":"/etc","made":true}]}`,
		"the mount":       `{"groups":[{"controllers":"","mount":"/m","dir":"/m","made":true}]}`,
		"climbs":          `{"groups":[{"controllers":"","mount":"/m","dir":"/m/../etc","made":true}]}`,
		"relative":        `{"groups":[{"controllers":"","mount":"","dir":"/a","made":true}]}`,
		"similarly named": `{"groups":[{"controllers":"","mount":"/m","dir":"/mm/a","made":true}]}`,
	} {
		if c, err := Load(json.RawMessage(record)); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// A record may be older than the mounts: a folder that is no cgroup stays.
func TestRemoveLeavesOtherFileSystems(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c := &Cgroup{Groups: []Group{{Mount: filepath.Dir(dir), Dir: dir, Made: true}}}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.Remove(shortly(t)); err == nil || !strings.Contains(err.Error(), "is not a cgroup") {
		t.Errorf("error %v", err)
	}
	if !exists(dir) {
		t.Error("removed")
	}
}
