package oci

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
)

// defaultPeriod is the kernel's for CPU quotas, in microseconds (cgroup v2,
// cpu.max).
const defaultPeriod = 100000

// maxDeviceRules bounds the rules: crun makes one BPF program of them.
const maxDeviceRules = 1024

// hugePages is the one size of huge pages that every guest has.
const hugePages = "2MB"

// mapResources does what the table calls mapped of a container's limits, in a
// form that crun can apply on cgroup v2.
func (r *report) mapResources(dst, src *specs.LinuxResources) error {
	if err := r.mapDeviceRules(dst, src.Devices); err != nil {
		return err
	}
	if src.Memory != nil {
		dst.Memory.Limit = unlessZero(src.Memory.Limit)
		dst.Memory.Swap = unlessZero(src.Memory.Swap)
	}
	if src.CPU != nil {
		dst.CPU.Period = src.CPU.Period
		if dst.CPU.Quota != nil && *dst.CPU.Quota != 0 && (dst.CPU.Period == nil || *dst.CPU.Period == 0) {
			n := uint64(defaultPeriod) // crun writes no quota that is unlimited without one
			dst.CPU.Period = &n
		}
	}
	if dst.Pids != nil && dst.Pids.Limit == nil {
		dst.Pids = nil // crun requires the limit
	}
	for i, limit := range src.HugepageLimits {
		if limit.Pagesize == hugePages {
			dst.HugepageLimits = append(dst.HugepageLimits, limit)
		} else {
			r.drop(fmt.Sprintf("linux.resources.hugepageLimits[%d]", i), "the guest has huge pages of "+hugePages)
		}
	}
	if err := r.mapUnified(dst, src.Unified); err != nil {
		return err
	}
	if src.CPU != nil {
		mapCPU(dst, src.CPU)
	}
	return nil
}

// mapCPU gives the guest's runtime as files of cgroup v2 what it would convert
// in its own way, or does not know. Those that the bundle names come first.
func mapCPU(dst *specs.LinuxResources, src *specs.LinuxCPU) {
	set := func(file string, value uint64) {
		if _, ok := dst.Unified[file]; ok {
			return
		}
		if dst.Unified == nil {
			dst.Unified = make(map[string]string)
		}
		dst.Unified[file] = strconv.FormatUint(value, 10)
	}
	// The kernel takes no weight for a cgroup that only gets what is left over.
	idle := src.Idle != nil && *src.Idle != 0
	if src.Shares != nil && *src.Shares != 0 && !idle {
		set("cpu.weight", cgroup.Weight(*src.Shares))
	}
	if src.Burst != nil && *src.Burst != 0 {
		set("cpu.max.burst", *src.Burst)
	}
}

// unlessZero takes a zero for a limit that is not there, as runc does; crun
// would write it.
func unlessZero(limit *int64) *int64 {
	if limit == nil || *limit == 0 {
		return nil
	}
	return limit
}

func (r *report) mapDeviceRules(dst *specs.LinuxResources, rules []specs.LinuxDeviceCgroup) error {
	if len(rules) > maxDeviceRules {
		return fmt.Errorf("linux.resources.devices: %d are more than %d", len(rules), maxDeviceRules)
	}
	for i := range rules {
		field := fmt.Sprintf("linux.resources.devices[%d]", i)
		rule, err := carry(r, &rules[i], field)
		if err != nil {
			return err
		}
		if rule.Access = rules[i].Access; rule.Access == "" {
			rule.Access = "rwm"
		}
		switch rule.Type {
		case "", "a", "b", "c":
		default:
			return fmt.Errorf("%s.type: unknown device type %q", field, rule.Type)
		}
		if strings.Trim(rule.Access, "rwm") != "" {
			return fmt.Errorf("%s.access: %q is not of r, w and m", field, rule.Access)
		}
		if rule.Type == "b" && !(anyNumber(rule.Major) && anyNumber(rule.Minor)) {
			r.drop(field, "block devices have other numbers in the guest; those of the container are allowed there")
			continue
		}
		dst.Devices = append(dst.Devices, *rule)
	}
	return nil
}

// guestControllers are those of cgroup v2 whose files mean something in the
// guest. The others number the host's devices, CPUs or memory nodes.
var guestControllers = set("cpu", "memory", "pids", "hugetlb")

func (r *report) mapUnified(dst *specs.LinuxResources, unified map[string]string) error {
	for _, file := range slices.Sorted(maps.Keys(unified)) {
		controller, _, ok := strings.Cut(file, ".")
		switch {
		case !ok || strings.Contains(file, "/"):
			return fmt.Errorf("linux.resources.unified: %q is not the name of a controller's file", file)
		case controller == "cgroup":
			// cgroup.procs would move any process of the guest, the agent
			// too, into the container's cgroup.
			return fmt.Errorf("linux.resources.unified: %q is the runtime's own business", file)
		case guestControllers[controller]:
			if dst.Unified == nil {
				dst.Unified = make(map[string]string)
			}
			dst.Unified[file] = unified[file]
		default:
			r.drop("linux.resources.unified."+file, "left to the host's cgroup")
		}
	}
	return nil
}
