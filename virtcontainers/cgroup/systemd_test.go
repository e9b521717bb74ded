package cgroup

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/google/go-cmp/cmp"
)

// fakeUnits is a systemd that makes the scope's folder as the real one does:
// in some of the hierarchies only.
type fakeUnits struct {
	calls []string
	props map[string]any
	dirs  []string
	err   error
}

func (u *fakeUnits) start(_ context.Context, unit string, props []dbus.Property) error {
	u.calls = append(u.calls, "start "+unit)
	u.props = map[string]any{}
	for _, p := range props {
		u.props[p.Name] = p.Value.Value()
	}
	if u.err != nil {
		return u.err
	}
	for _, d := range u.dirs {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (u *fakeUnits) set(_ context.Context, unit string, props []dbus.Property) error {
	u.calls = append(u.calls, "set "+unit)
	for _, p := range props {
		u.props[p.Name] = p.Value.Value()
	}
	return u.err
}

func (u *fakeUnits) stop(_ context.Context, unit string) error {
	u.calls = append(u.calls, "stop "+unit)
	for _, d := range u.dirs {
		if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return u.err
}

func TestFakeSystemdScopeOnRealHierarchies(t *testing.T) {
	h := realHosts(t)["as it is"]
	id := testName(t)
	p, err := Place("-.slice:vctest:"+id, "c1", true)
	if err != nil {
		t.Fatal(err)
	}
	u := &fakeUnits{dirs: []string{filepath.Join(h[0].mount, p.Path)}}
	c, err := newOn(h, p, u)
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range c.Groups {
		t.Cleanup(func() { os.Remove(g.Dir) })
	}
	proc := process(t)
	if err := c.Create(shortly(t), proc.Process.Pid, Limits{}); err != nil {
		t.Fatal(err)
	}
	for i, g := range c.Groups {
		if g.Made != (i != 0) {
			t.Errorf("%s made by us: %v", g.Dir, g.Made)
		}
	}
	// A scope must be empty before it is stopped: systemd would kill.
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Remove(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("busy: %v", err)
	}
	end(proc)
	record, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Load(record)
	if err != nil {
		t.Fatal(err)
	}
	again.units = u
	if err := again.Remove(shortly(t)); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"start " + p.Unit, "stop " + p.Unit}, u.calls); d != "" {
		t.Error(d)
	}
	for _, g := range c.Groups {
		if exists(g.Dir) {
			t.Errorf("%s is left", g.Dir)
		}
	}
}

func TestFakeSystemdProperties(t *testing.T) {
	lim := Limits{CPUShares: 1024, CPUs: "0-2,9", Mems: "0"}
	common := map[string]any{
		"Description": "vc-runtime container libpod-c1.scope", "Slice": "machine.slice", "PIDs": []uint32{42},
		"Delegate": true, "DefaultDependencies": false, "MemoryAccounting": true, "CPUAccounting": true, "TasksAccounting": true,
	}
	for _, c := range []struct {
		name   string
		groups []Group
		extra  map[string]any
	}{
		{"v2", []Group{{}}, map[string]any{"IOAccounting": true, "CPUWeight": uint64(100), "AllowedCPUs": []byte{7, 2}, "AllowedMemoryNodes": []byte{1}}},
		{"v1", []Group{{Controllers: "memory"}, {}}, map[string]any{"BlockIOAccounting": true, "CPUShares": uint64(1024)}},
	} {
		cg := &Cgroup{Slice: "machine.slice", Unit: "libpod-c1.scope", Groups: c.groups}
		got := map[string]any{}
		for _, p := range cg.properties(42, lim) {
			got[p.Name] = p.Value.Value()
		}
		for k, v := range common {
			c.extra[k] = v
		}
		if d := cmp.Diff(c.extra, got); d != "" {
			t.Errorf("%s:\n%s", c.name, d)
		}
	}
}

// A unit that somebody else has under the name is an error, and stays.
func TestFakeSystemdForeignUnitStays(t *testing.T) {
	u := &fakeUnits{err: errors.New("unit exists")}
	c := &Cgroup{Slice: "a.slice", Unit: "b-c.scope", units: u, Groups: []Group{{Mount: "/nonexistent", Dir: "/nonexistent/a"}}}
	if err := c.Create(shortly(t), 42, Limits{}); err == nil || !strings.Contains(err.Error(), "create unit b-c.scope: unit exists") {
		t.Errorf("error %v", err)
	}
	if err := c.Remove(shortly(t)); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"start b-c.scope"}, u.calls); d != "" {
		t.Error(d)
	}
	if err := c.Create(shortly(t), 0, Limits{}); err == nil {
		t.Error("a scope without a process")
	}
}

func TestWithoutSystemd(t *testing.T) {
	if st, err := os.Lstat("/run/systemd/system"); err == nil && st.IsDir() {
		t.Skip("SKIPPED: systemd runs here")
	}
	for name, err := range map[string]error{
		"start": systemdBus{}.start(shortly(t), "vctest.scope", nil),
		"stop":  systemdBus{}.stop(shortly(t), "vctest.scope"),
	} {
		if !errors.Is(err, ErrNoSystemd) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The real one, on a machine that has it: the scope, its properties, and that
// nothing of it stays.
func TestRealSystemd(t *testing.T) {
	if st, err := os.Lstat("/run/systemd/system"); err != nil || !st.IsDir() {
		t.Skip("SKIPPED: systemd does not run here")
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: making scopes needs root")
	}
	ctx, name := shortly(t), testName(t)
	p, err := Place("vctest.slice:"+name+":c1", "c1", true)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	first, second := process(t), process(t)
	if err := c.Create(ctx, first.Process.Pid, Limits{CPUShares: 2048}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Remove(shortly(t)) })
	if err := c.Add(ctx, second.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for _, proc := range []int{first.Process.Pid, second.Process.Pid} {
		got := membershipOf(t, proc)
		for _, g := range c.Groups {
			if got[g.Controllers] != p.Path {
				t.Errorf("process %d: %q is %s, want %s", proc, g.Controllers, got[g.Controllers], p.Path)
			}
		}
	}
	conn, err := systemdBus{}.connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	want := map[string]any{"Slice": "vctest.slice", "Delegate": true, "CPUWeight": Weight(2048), "MemoryMax": uint64(512 << 20)}
	if !c.v2() {
		delete(want, "CPUWeight")
		delete(want, "MemoryMax")
		want["CPUShares"], want["MemoryLimit"] = uint64(2048), uint64(512<<20)
	}
	if err := c.LimitMemory(ctx, 512<<20); err != nil {
		t.Fatal(err)
	}
	props, err := conn.GetUnitTypePropertiesContext(ctx, p.Unit, "Scope")
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range want {
		if !cmp.Equal(props[k], v) {
			t.Errorf("%s is %v, want %v", k, props[k], v)
		}
	}
	if err := conn.ReloadContext(ctx); err != nil {
		t.Fatal(err)
	}
	if pids, err := c.Pids(); err != nil || len(pids) != 2 {
		t.Errorf("after a reload: %v, %v", pids, err)
	}

	// A live unit of that name is somebody else's.
	third := process(t)
	again, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Create(ctx, third.Process.Pid, Limits{}); !isBusError(err, errUnitExists) {
		t.Errorf("a second unit: %v", err)
	}
	if err := again.Remove(ctx); err != nil {
		t.Error(err)
	}
	if pids, err := c.Pids(); err != nil || len(pids) != 2 {
		t.Errorf("the unit has suffered: %v, %v", pids, err)
	}

	end(first)
	time.AfterFunc(200*time.Millisecond, func() { second.Process.Kill() })
	for range 2 {
		if err := c.Remove(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, g := range c.Groups {
		if exists(g.Dir) {
			t.Errorf("%s is left", g.Dir)
		}
	}
}
