// Package size says how large a virtual machine has to be for what its
// containers may use. It is pure.
package size

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Demand is what a container, or a pod, may use at most.
type Demand struct {
	Memory uint64 `json:"memory,omitempty"` // bytes; 0 where there is no limit
	CPU    uint64 `json:"cpu,omitempty"`    // thousandths of a CPU's time; 0 where there is no limit
}

// Of reads the demand from a container's limits. A limit of memory, or a quota
// of CPU time; weights and sets of CPUs demand nothing.
func Of(r *specs.LinuxResources) Demand {
	var d Demand
	if r == nil {
		return d
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit < noLimit {
		d.Memory = positive(*m.Limit)
	}
	if c := r.CPU; c != nil && c.Quota != nil {
		period := uint64(defaultPeriod)
		if c.Period != nil && *c.Period != 0 {
			period = *c.Period
		}
		d.CPU = share(positive(*c.Quota), period)
	}
	return d
}

// noLimit is what cgroup v1 shows where there is none, in bytes: callers that
// have read a limit there may give it back (memory.limit_in_bytes).
const noLimit = math.MaxInt64 &^ 4095

// defaultPeriod is the kernel's for CPU quotas, in microseconds (cgroup v2,
// cpu.max).
const defaultPeriod = 100000

// The annotations in which containerd's CRI service tells the limits of a
// whole pod (containerd, pkg/cri/annotations).
const (
	annotationMemory = "io.kubernetes.cri.sandbox-memory"
	annotationQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	annotationPeriod = "io.kubernetes.cri.sandbox-cpu-period"
)

// The annotations in which CRI-O tells them, the newer one first (CRI-O,
// pkg/annotations, PodLinuxResources), as JSON of the CRI's
// LinuxContainerResources.
var annotationsCRIO = []string{"pod-linux-resources.crio.io", "io.kubernetes.cri-o.PodLinuxResources"}

// criResources are those of the CRI's LinuxContainerResources that count here.
type criResources struct {
	Period int64 `json:"cpu_period"` // microseconds
	Quota  int64 `json:"cpu_quota"`  // microseconds
	Memory int64 `json:"memory_limit_in_bytes"`
}

// OfPod reads the demand of a pod from the annotations of its sandbox.
func OfPod(annotations map[string]string) (Demand, error) {
	crio, err := ofCRIO(annotations)
	if err != nil {
		return Demand{}, err
	}
	containerd, err := ofContainerd(annotations)
	return containerd.AtLeast(crio), err
}

func ofCRIO(annotations map[string]string) (Demand, error) {
	for _, key := range annotationsCRIO {
		text, ok := annotations[key]
		if !ok {
			continue
		}
		var r criResources // null, where the kubelet has told nothing, leaves it
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return Demand{}, fmt.Errorf("annotation %s: %.100q: expected resources of the CRI as JSON: %w", key, text, err)
		}
		period := positive(r.Period)
		if period == 0 {
			period = defaultPeriod
		}
		return Demand{Memory: positive(r.Memory), CPU: share(positive(r.Quota), period)}, nil
	}
	return Demand{}, nil
}

func ofContainerd(annotations map[string]string) (Demand, error) {
	values := make(map[string]uint64)
	for _, key := range []string{annotationMemory, annotationQuota, annotationPeriod} {
		text, ok := annotations[key]
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return Demand{}, fmt.Errorf("annotation %s: %q: expected a number", key, text)
		}
		values[key] = positive(n)
	}
	period := values[annotationPeriod]
	if period == 0 {
		period = defaultPeriod
	}
	return Demand{Memory: values[annotationMemory], CPU: share(values[annotationQuota], period)}, nil
}

// positive takes 0 and less, which are no limit, for 0.
func positive(n int64) uint64 { return uint64(max(n, 0)) }

// mostCPU bounds a quota: more CPUs than a machine can have, in thousandths.
const mostCPU = 1 << 20

// share gives quota/period in thousandths, rounded up.
func share(quota, period uint64) uint64 {
	if quota/period >= mostCPU/1000 {
		return mostCPU
	}
	return (quota*1000 + period - 1) / period
}

// Plus adds up two demands.
func (d Demand) Plus(o Demand) Demand {
	return Demand{Memory: add(d.Memory, o.Memory), CPU: add(d.CPU, o.CPU)}
}

func add(a, b uint64) uint64 {
	if a+b < a {
		return ^uint64(0)
	}
	return a + b
}

// AtLeast is the larger of each.
func (d Demand) AtLeast(o Demand) Demand {
	return Demand{Memory: max(d.Memory, o.Memory), CPU: max(d.CPU, o.CPU)}
}

// Machine is the size of a virtual machine.
type Machine struct {
	CPUs      int
	MemoryMiB int
}

// own is what the guest's kernel, the agent and the guest's file caches need
// of a machine's memory, in MiB.
const own = 112

// For gives the machine for a demand, between the least machine, which is
// there for what has no limit, and the most.
//
// Memory: where the demand fits into the least machine beside what the guest
// needs for itself, that will do; otherwise the demand is put on top. CPUs: as
// many as the quotas add up to, rounded up.
func For(d Demand, least, most Machine) Machine {
	m := least
	if want := mib(d.Memory); own+want > uint64(least.MemoryMiB) {
		m.MemoryMiB = int(min(uint64(least.MemoryMiB)+want, uint64(most.MemoryMiB)))
	}
	m.CPUs = int(min((d.CPU+999)/1000, uint64(most.CPUs)))
	return Machine{CPUs: max(m.CPUs, least.CPUs), MemoryMiB: max(m.MemoryMiB, least.MemoryMiB)}
}

// mib rounds up.
func mib(bytes uint64) uint64 {
	const size = 1 << 20
	if bytes%size != 0 {
		return bytes/size + 1
	}
	return bytes / size
}
