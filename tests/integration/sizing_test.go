package integration

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// growing are the settings of machines that can grow whatever the host has.
var growing = testenv.Settings{"hypervisor.max_cpus": "3", "hypervisor.max_memory": `"2G"`}

func cpuQuota(quota int64) testenv.Option {
	return func(s *specs.Spec) { s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota} }
}

// machineSize gives the CPUs, and the MiB of memory, that the guest has.
func machineSize(t testing.TB, c *testenv.Container) (cpus, memory int) {
	t.Helper()
	cpus = strings.Count(c.OK("exec", c.ID, "cat", "/proc/cpuinfo").Stdout, "processor\t")
	fields := strings.Fields(c.OK("exec", c.ID, "cat", "/proc/meminfo").Stdout) // MemTotal: 1 kB
	kib, err := strconv.Atoi(fields[1])
	if err != nil || fields[0] != "MemTotal:" {
		t.Fatal(fields)
	}
	return cpus, kib / 1024
}

// isSize checks the size of the machine: what the guest's kernel takes of its
// memory for itself, 1/64 and up to 50 MiB, does not show.
func isSize(t testing.TB, c *testenv.Container, cpus, memory int) {
	t.Helper()
	gotCPUs, gotMemory := machineSize(t, c)
	if gotCPUs != cpus || gotMemory > memory || gotMemory < memory-memory/64-50 {
		t.Errorf("the guest has %d CPUs and %d MiB, want %d and %d", gotCPUs, gotMemory, cpus, memory)
	}
}

// TestSizing: a machine is as large as the limits of its containers need.
func TestSizing(t *testing.T) {
	for _, tt := range []struct {
		name         string
		settings     testenv.Settings
		options      []testenv.Option
		cpus, memory int
	}{
		{"limits that fit", nil, []testenv.Option{memoryLimit(15 << 20), cpuQuota(50000)}, 1, 256},
		{"limits that do not", nil, []testenv.Option{memoryLimit(500 << 20), cpuQuota(150000)}, 2, 768},
		{"more than there may be", nil, []testenv.Option{memoryLimit(1 << 40), cpuQuota(100000000)}, 3, 2048},
		{"told for the pod", nil, []testenv.Option{func(s *specs.Spec) {
			s.Annotations = map[string]string{
				"io.kubernetes.cri.container-type":    "sandbox",
				"io.kubernetes.cri.sandbox-memory":    strconv.Itoa(500 << 20),
				"io.kubernetes.cri.sandbox-cpu-quota": "150000",
			}
		}}, 2, 768},
		{"told by CRI-O", nil, []testenv.Option{
			testenv.Annotation("io.kubernetes.cri-o.ContainerType", "sandbox"),
			testenv.Annotation("io.kubernetes.cri-o.PodLinuxResources", `{"cpu_period":100000,"cpu_quota":150000,"memory_limit_in_bytes":524288000}`),
		}, 2, 768},
		{"static", testenv.Settings{"hypervisor.sizing": `"static"`, "hypervisor.template": `"off"`}, []testenv.Option{memoryLimit(500 << 20), cpuQuota(150000)}, 1, 256},
		{"no template", testenv.Settings{"hypervisor.template": `"off"`}, []testenv.Option{memoryLimit(500 << 20), cpuQuota(150000)}, 2, 768},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			settings := testenv.Settings{}
			for _, s := range []testenv.Settings{growing, tt.settings} {
				for k, v := range s {
					settings[k] = v
				}
			}
			e = e.Configured(settings)
			c := e.Started(nil, append(tt.options, testenv.Shell(ready))...)
			isSize(t, c, tt.cpus, tt.memory)
			c.DeleteForced()
		})
	}
}

// TestGrowthEnds: that a machine cannot have what its container may use is said
// once, where warnings go.
func TestGrowthEnds(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(growing)
	b := e.Bundle(ownCgroup, memoryLimit(3<<30), cpuQuota(400000))
	id, log := e.ID(), e.Path("log")
	do := func(args ...string) {
		t.Helper()
		if res := e.Call(testenv.Command{Args: append([]string{"--log", log}, args...), Null: true}); res.Code != 0 {
			t.Fatal(res)
		}
	}
	do("create", "--bundle", b.Dir, id)
	do("update", "--memory", "4g", "--cpu-quota", "500000", id)
	do("delete", "--force", id)
	text := testenv.Unquoted(e.Read(log))
	for _, want := range []string{
		"linux.resources.memory: for the limits of its containers the virtual machine wants 3328 MiB, and it gets 2048 at most (hypervisor.max_memory)",
		"linux.resources.cpu: the quotas of the virtual machine's containers add up to 4 CPUs, and it gets 3 at most (hypervisor.max_cpus)",
	} {
		if n := strings.Count(text, want); n != 1 || strings.Count(text, "hypervisor.max_") != 2 {
			t.Errorf("%q is said %d times: %s", want, n, text)
		}
	}
}

// TestPluggedMemoryWorks: a container can use all of its limit, and the file
// server reaches the memory that was plugged.
func TestPluggedMemoryWorks(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(growing)
	data := make([]byte, 16<<20)
	rand.Read(data)
	b := e.Bundle(memoryLimit(400<<20), testenv.Shell(
		"sha256sum </data && dd if=/dev/zero of=/dev/null bs=350000000 count=1 2>&1 | head -1 && cp /data /copy && sha256sum </copy"))
	if err := os.WriteFile(filepath.Join(b.Rootfs, "data"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	c := e.CreateFrom(b, nil)
	c.Start()
	e.Equal("exit code", c.Wait(exitLimit), 0)
	sum := fmt.Sprintf("%x  -\n", sha256.Sum256(data))
	e.Equal("output", c.Stdout(), sum+"1+0 records in\n"+sum)
	if _, err := os.Stat(filepath.Join(b.Dir, "oom")); err == nil {
		t.Error("an OOM kill within the limit")
	}
	c.Delete()
}

// TestUpdateGrows: an update makes room before it raises limits, and takes
// nothing away.
func TestUpdateGrows(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(growing)
	c := e.Started(nil, ownCgroup, memoryLimit(64<<20), testenv.Shell(ready))
	isSize(t, c, 1, 256)
	e.OK("update", "--memory", "300m", "--cpu-quota", "200000", c.ID)
	isSize(t, c, 2, 640)
	e.OK("update", "--memory", "32m", "--cpu-quota", "50000", c.ID)
	isSize(t, c, 2, 640)
	cgroupFiles(t, c, map[string]string{"memory.max": "33554432", "cpu.max": "50000 100000"})
	e.OK("update", "--memory", "1g", "--cpu-quota", "300000", c.ID)
	isSize(t, c, 3, 1280)
	cgroupFiles(t, c, map[string]string{"memory.max": "1073741824"})
	c.DeleteForced()
}

// TestPodGrows: containers that join a pod make its machine larger, and leave
// their room to others.
func TestPodGrows(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	p := newPod(e.Configured(growing), callers[0])
	isSize(t, p.infra, 1, 256)
	first := p.member(memoryLimit(300<<20), testenv.Shell(ready))
	isSize(t, first, 1, 640)
	second := p.member(memoryLimit(200<<20), cpuQuota(300000), testenv.Shell(ready))
	isSize(t, second, 3, 1024) // by half at least, as memory cannot be plugged often
	second.DeleteForced()
	third := p.member(memoryLimit(400<<20), testenv.Shell(ready))
	isSize(t, third, 3, 1024)
	for _, c := range []*testenv.Container{third, first, p.infra} {
		c.DeleteForced()
	}
}

// TestKernelCodeChanges: a machine with several CPUs goes on while its kernel
// changes its own code, here at a switch of statistics (a static key; the
// trimmed kernel has only the second). With an
// emulating thread for each CPU, QEMU 7.2 stops at one of them sooner or later.
func TestKernelCodeChanges(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(growing)
	const script = `set -e; cd /proc/sys/kernel; key=sched_schedstats; [ -e $key ] || key=bpf_stats_enabled
		for i in 1 2; do while :; do true | true; done & done
		for i in $(seq 50); do for on in 1 0; do echo $on >$key; done; done; kill -9 $(jobs -p); echo done`
	writable := func(s *specs.Spec) { s.Linux.ReadonlyPaths = nil }
	b := e.Bundle(cpuQuota(200000), writable, testenv.Capabilities("CAP_SYS_ADMIN"), testenv.Shell(script))
	if out := e.OK("run", "--bundle", b.Dir, e.ID()).Stdout; out != "done\n" {
		t.Errorf("output %q", out)
	}
}
