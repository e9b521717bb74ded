package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func pointer[T any](v T) *T { return &v }

func TestLimitsOf(t *testing.T) {
	io := &specs.LinuxBlockIO{Weight: pointer(uint16(100))}
	cpu := &specs.LinuxCPU{Shares: pointer(uint64(1 << 20)), Cpus: "0-1", Mems: "0"}
	r := &specs.LinuxResources{CPU: cpu, BlockIO: io, Memory: &specs.LinuxMemory{Limit: pointer(int64(5))}}
	for name, c := range map[string]struct {
		r    *specs.LinuxResources
		own  bool
		want Limits
	}{
		"nothing":        {nil, true, Limits{}},
		"own machine":    {r, true, Limits{CPUShares: 262144, CPUs: "0-1", Mems: "0", BlockIO: io}},
		"of a pod":       {r, false, Limits{BlockIO: io}},
		"shares of zero": {&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: pointer(uint64(0))}}, true, Limits{}},
	} {
		if diff := cmp.Diff(c.want, LimitsOf(c.r, c.own)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestLimitsOfV1(t *testing.T) {
	h := realHosts(t)["as it is"]
	if h.unified() {
		t.Skip("SKIPPED: no cgroup v1 hierarchy: this host has v2 only, and the test sets v1 limits")
	}
	c := newTest(t, h, Placement{Path: "/" + testName(t)})
	if err := c.Create(shortly(t), 0, Limits{CPUShares: 512, CPUs: "0"}); err != nil {
		t.Fatal(err)
	}
	if err := c.LimitMemory(shortly(t), 512<<20); err != nil {
		t.Fatal(err)
	}
	expect := func(ctrl, file, want string) {
		t.Helper()
		for _, g := range c.Groups {
			if !g.has(ctrl) {
				continue
			}
			if b, err := os.ReadFile(filepath.Join(g.Dir, file)); err != nil || strings.TrimSpace(string(b)) != want {
				t.Errorf("%s: %q, %v, want %s", file, b, err, want)
			}
		}
	}
	expect("memory", "memory.limit_in_bytes", "536870912")
	expect("cpu", "cpu.shares", "512")
	expect("cpuset", "cpuset.cpus", "0")
	// An update, of a Cgroup that was recorded.
	if err := c.Limit(shortly(t), Limits{CPUShares: 2048}); err != nil {
		t.Fatal(err)
	}
	expect("cpu", "cpu.shares", "2048")
	expect("cpuset", "cpuset.cpus", "0")
	if err := c.Remove(shortly(t)); err != nil {
		t.Error(err)
	}
}

// plainGroup is a cgroup whose files are plain ones.
func plainGroup(t *testing.T, controllers string, files ...string) *Cgroup {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "a")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name, text, _ := strings.Cut(f, "=")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return &Cgroup{Groups: []Group{{Controllers: controllers, Mount: root, Dir: dir}}, units: noUnits{t}}
}

func TestSettings(t *testing.T) {
	io := &specs.LinuxBlockIO{
		Weight:                  pointer(uint16(500)),
		ThrottleReadBpsDevice:   []specs.LinuxThrottleDevice{throttleOf(8, 0, 1048576)},
		ThrottleWriteIOPSDevice: []specs.LinuxThrottleDevice{throttleOf(8, 16, 0)},
	}
	all := Limits{CPUShares: 1024, CPUs: "0-1", Mems: "0", BlockIO: io}
	for name, c := range map[string]struct {
		cg   *Cgroup
		unit bool
		want []setting
	}{
		"v2": {plainGroup(t, "", "cgroup.controllers=cpu cpuset io", "io.weight="), false, []setting{
			{"cpu.weight", "100"}, {"cpuset.cpus", "0-1"}, {"cpuset.mems", "0"},
			{"io.weight", "default 4950"}, {"io.max", "8:0 rbps=1048576"}, {"io.max", "8:16 wiops=max"}}},
		"v2, bfq": {plainGroup(t, "", "cgroup.controllers=io", "io.bfq.weight=", "io.weight="), false, []setting{
			{"io.bfq.weight", "500"}, {"io.max", "8:0 rbps=1048576"}, {"io.max", "8:16 wiops=max"}}},
		"v2, a unit": {plainGroup(t, "", "cgroup.controllers=cpu cpuset io", "io.weight="), true, []setting{
			{"io.weight", "default 4950"}, {"io.max", "8:0 rbps=1048576"}, {"io.max", "8:16 wiops=max"}}},
		"v2 of a hybrid host":  {plainGroup(t, "", "cgroup.controllers=hugetlb"), false, nil},
		"v1, cpu":              {plainGroup(t, "cpu,cpuacct"), false, []setting{{"cpu.shares", "1024"}}},
		"v1, cpu of a unit":    {plainGroup(t, "cpu,cpuacct"), true, nil},
		"v1, cpuset of a unit": {plainGroup(t, "cpuset"), true, []setting{{"cpuset.cpus", "0-1"}, {"cpuset.mems", "0"}}},
		"v1, blkio": {plainGroup(t, "blkio", "blkio.bfq.weight="), false, []setting{
			{"blkio.bfq.weight", "500"}, {"blkio.throttle.read_bps_device", "8:0 1048576"}, {"blkio.throttle.write_iops_device", "8:16 0"}}},
		"v1, another": {plainGroup(t, "freezer"), false, nil},
	} {
		got, err := all.settings(&c.cg.Groups[0], c.unit)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(setting{})); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
	for _, controllers := range []string{"", "blkio"} {
		cg := plainGroup(t, controllers, "cgroup.controllers=io")
		if _, err := all.settings(&cg.Groups[0], false); !errors.Is(err, errNoWeights) || !strings.Contains(err.Error(), "linux.resources.blockIO") {
			t.Errorf("a kernel without weights: %v", err)
		}
	}
}

func throttleOf(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	d := specs.LinuxThrottleDevice{Rate: rate}
	d.Major, d.Minor = major, minor
	return d
}

func TestLimitsOfAUnit(t *testing.T) {
	c := plainGroup(t, "", "cgroup.controllers=memory cpu")
	u := &fakeUnits{props: map[string]any{}}
	c.Slice, c.Unit, c.units = "a.slice", "b-c.scope", u
	if err := errors.Join(c.Limit(shortly(t), Limits{CPUShares: 1024}), c.LimitMemory(shortly(t), 7), c.Limit(shortly(t), Limits{})); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"CPUWeight": uint64(100), "MemoryMax": uint64(7)}, u.props); diff != "" {
		t.Error(diff)
	}
}

func TestBitmask(t *testing.T) {
	for list, want := range map[string][]byte{"": nil, "0": {1}, "0-2,9": {7, 2}, " 3 , 1": {10}, "8": {0, 1}} {
		if got, err := bitmask(list); err != nil || string(got) != string(want) {
			t.Errorf("%q: %v, %v", list, got, err)
		}
	}
	for _, list := range []string{"x", "1-", "-1", "2-1", "70000", "8192", "0-99999", "1;2"} {
		err := Limits{Mems: list}.check()
		if err == nil || !strings.Contains(err.Error(), "linux.resources.cpu.mems") {
			t.Errorf("%q: %v", list, err)
		}
	}
}

func TestWeights(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("%d shares: %d, want %d", shares, got, want)
		}
	}
	for w, want := range map[uint16]uint64{0: 1, 10: 1, 500: 4950, 1000: 10000, 65535: 10000} {
		if got := ioWeight(w); got != want {
			t.Errorf("weight %d: %d, want %d", w, got, want)
		}
	}
}
