package integration

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// ownCgroup shows a container its own cgroup of the guest.
func ownCgroup(s *specs.Spec) {
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
}

// cgroupFiles checks files of a container's cgroup in the guest.
func cgroupFiles(t testing.TB, c *testenv.Container, want map[string]string) {
	t.Helper()
	for name, value := range want {
		res := c.Do("exec", c.ID, "cat", "/sys/fs/cgroup/"+name)
		if got := strings.TrimSpace(res.Stdout); res.Code != 0 || got != value {
			t.Errorf("%s in the guest is %q, want %q (%s)", name, got, value, strings.TrimSpace(res.Stderr))
		}
	}
}

// TestUpdate changes limits in every way that callers do, and reads what comes
// of it in the guest's cgroup.
func TestUpdate(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Container(nil, ownCgroup, memoryLimit(64<<20), testenv.Shell(ready))
	cgroupFiles(t, c, map[string]string{"memory.max": "67108864", "pids.max": "max", "cpu.max": "max 100000", "cpu.weight": "100"})

	// Created: as podman does.
	e.OK("update", "--resources="+e.Write("r.json", `{"memory":{"limit":33554432,"reservation":1048576},"cpu":{"shares":512,"quota":20000,"burst":1000},"pids":{"limit":40}}`), c.ID)
	cgroupFiles(t, c, map[string]string{
		"memory.max": "33554432", "memory.low": "1048576", "pids.max": "40", "cpu.max": "20000 100000", "cpu.max.burst": "1000", "cpu.weight": "59"})

	// Running: as CRI-O and containerd do. Zeros say nothing.
	c.Start()
	c.WaitFor("ready")
	for _, arg := range []string{"--resources=-", "--resources -"} {
		res := e.Call(testenv.Command{
			Args:  append(append([]string{"update"}, strings.Fields(arg)...), c.ID),
			Stdin: strings.NewReader(`{"memory":{"limit":50331648,"swap":0},"cpu":{"period":50000,"quota":0}}`),
		})
		if res.Code != 0 {
			t.Error(res)
		}
	}
	cgroupFiles(t, c, map[string]string{"memory.max": "50331648", "pids.max": "40", "cpu.max": "20000 50000", "cpu.weight": "59"})

	// Paused, with flags; limits are taken away again.
	e.OK("pause", c.ID)
	e.OK("update", "--memory", "40m", "--memory-swap", "-1", "--cpu-quota", "-1", "--pids-limit", "-1", c.ID)
	e.OK("resume", c.ID)
	cgroupFiles(t, c, map[string]string{"memory.max": fmt.Sprint(40 << 20), "memory.swap.max": "max", "pids.max": "max", "cpu.max": "max 50000"})
	e.OK("update", "--memory", "-1", c.ID)
	cgroupFiles(t, c, map[string]string{"memory.max": "max"})

	for _, bad := range [][2]string{
		{`{"memory":{"limit":"x"}}`, "resources, line 1"},
		{`{"unified":{"cgroup.procs":"1"}}`, "linux.resources.unified"},
		{`{"unified":{"memory.nothing":"1"}}`, "memory.nothing"},
		{`{"memory":{"limit":4294967296,"swap":1}}`, "swap"},
	} {
		e.Fails(bad[1], "update", "-r", e.Write("bad.json", bad[0]), c.ID)
	}
	cgroupFiles(t, c, map[string]string{"memory.max": "max", "pids.max": "max"})

	e.OK("kill", c.ID, "KILL")
	stopped(t, c)
	e.Fails("container not running", "update", "--memory", "40m", c.ID)
	c.Delete()
	e.Fails("does not exist", "update", "--memory", "40m", c.ID)
}
