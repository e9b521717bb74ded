package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

func pointer[T any](v T) *T { return &v }

// TestResourcesInTheGuest reads in the guest's cgroup what becomes of
// linux.resources.
func TestResourcesInTheGuest(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	// Its own process must not fork: with all places taken that would be its end.
	c := e.Started(nil, ownCgroup, testenv.Args("sleep", "1000000"), func(s *specs.Spec) {
		r := s.Linux.Resources
		r.Memory = &specs.LinuxMemory{Limit: pointer(int64(64 << 20)), Reservation: pointer(int64(16 << 20)), Swap: pointer(int64(96 << 20))}
		r.CPU = &specs.LinuxCPU{
			Shares: pointer(uint64(2048)), Quota: pointer(int64(30000)), Period: pointer(uint64(60000)), Burst: pointer(uint64(10000)),
			Cpus: "0", Mems: "0", // the host's
		}
		r.Pids = &specs.LinuxPids{Limit: pointer(int64(33))}
		r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4 << 20}, {Pagesize: "1GB", Limit: 1 << 30}}
		r.Unified = map[string]string{"memory.high": "50331648", "memory.oom.group": "1"}
	})
	cgroupFiles(t, c, map[string]string{
		"memory.max": "67108864", "memory.low": "16777216", "memory.swap.max": "33554432", "memory.high": "50331648", "memory.oom.group": "1",
		"cpu.weight": "174", "cpu.max": "30000 60000", "cpu.max.burst": "10000", "cpuset.cpus": "", "cpuset.mems": "",
		"pids.max": "33", "hugetlb.2MB.max": "4194304",
	})
	// The limit of processes is one: the shell's own message says so.
	res := e.Do("exec", c.ID, "sh", "-c", "for i in $(seq 40); do sleep 100 & done; wait")
	if !strings.Contains(res.Stderr, "can't fork") {
		t.Errorf("40 processes with a limit of 33: %s", res)
	}
	c.DeleteForced()
}

// hostCgroup gives a file of a container's cgroup on the host, "" where the
// host has no such file.
func hostCgroup(t testing.TB, path, controller, file string) string {
	t.Helper()
	for _, dir := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
		b, err := os.ReadFile(filepath.Join(dir, path, file))
		if err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	return ""
}

// hostDisk gives a block device of the host, and a rate that nothing reaches.
func hostDisk(t testing.TB) (string, specs.LinuxThrottleDevice) {
	t.Helper()
	found, err := filepath.Glob("/sys/block/*/dev")
	if err != nil || len(found) == 0 {
		t.Fatalf("block devices of the host: %q, %v", found, err)
	}
	text, err := os.ReadFile(found[len(found)-1])
	if err != nil {
		t.Fatal(err)
	}
	d := specs.LinuxThrottleDevice{Rate: 2_000_000_000}
	if _, err := fmt.Sscanf(string(text), "%d:%d", &d.Major, &d.Minor); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text)), d
}

// TestResourcesOnTheHost: what numbers the host's CPUs and devices, and weights
// among containers, are limits of the host's cgroup; so is the memory of the
// whole machine where the configuration says so.
func TestResourcesOnTheHost(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	settings := testenv.Settings{"hypervisor.memory_overhead": `"1500M"`}
	for k, v := range growing {
		settings[k] = v
	}
	e = e.Configured(settings)
	path := "/" + e.ID()
	disk, throttle := hostDisk(t)
	c := e.Started(nil, testenv.Shell(ready), func(s *specs.Spec) {
		s.Linux.CgroupsPath = path
		s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: pointer(uint64(2048)), Mems: "0"}
		s.Linux.Resources.BlockIO = &specs.LinuxBlockIO{
			ThrottleWriteBpsDevice: []specs.LinuxThrottleDevice{throttle}, ThrottleReadIOPSDevice: []specs.LinuxThrottleDevice{throttle},
		}
	})
	v2 := hostCgroup(t, path, "memory", "memory.max") != ""
	expect := func(what, controller, v1, v2File, want, v2Want string) {
		t.Helper()
		if v2 {
			v1, want = v2File, v2Want
		}
		e.Equal(what, hostCgroup(t, path, controller, v1), want)
	}
	rate := fmt.Sprint(throttle.Rate)
	expect("written bytes", "blkio", "blkio.throttle.write_bps_device", "io.max", disk+" "+rate, disk+" rbps=max wbps="+rate+" riops="+rate+" wiops=max")
	expect("reads", "blkio", "blkio.throttle.read_iops_device", "io.max", disk+" "+rate, disk+" rbps=max wbps="+rate+" riops="+rate+" wiops=max")
	mib := func(n int) string { return fmt.Sprint(n << 20) }
	expect("CPU shares", "cpu", "cpu.shares", "cpu.weight", "2048", "174")
	expect("memory nodes", "cpuset", "cpuset.mems", "cpuset.mems", "0", "0")
	expect("memory", "memory", "memory.limit_in_bytes", "memory.max", mib(256+1500), mib(256+1500))
	e.OK("update", "--cpu-share", "4096", "--cpuset-cpus", "0", "--memory", "300m", c.ID)
	expect("CPU shares after an update", "cpu", "cpu.shares", "cpu.weight", "4096", "303")
	expect("CPUs after an update", "cpuset", "cpuset.cpus", "cpuset.cpus", "0", "0")
	expect("memory after an update", "memory", "memory.limit_in_bytes", "memory.max", mib(640+1500), mib(640+1500))
	e.Fails("linux.resources.cpu.cpus", "update", "--cpuset-cpus", "one", c.ID)
	c.DeleteForced()

	b := e.Bundle(func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Cpus: "8000"} })
	if res := e.Do("create", "--bundle", b.Dir, e.ID()); res.Code != 1 || !strings.Contains(res.Stderr, "cpuset.cpus") {
		t.Errorf("CPUs that the host does not have: %s", res)
	}
}
