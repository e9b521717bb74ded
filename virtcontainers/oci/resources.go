package oci

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The range of cpu.shares, which cpu.weight is made from: runc's.
const (
	minShares = 2
	maxShares = 262144
)

// defaultPeriod is the kernel's for CPU quotas, in microseconds (cgroup v2,
// cpu.max).
const defaultPeriod = 100000

// maxDeviceRules bounds the rules: crun makes one BPF program of them.
const maxDeviceRules = 1024

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
		if shares := src.CPU.Shares; shares != nil && *shares != 0 {
			n := min(max(*shares, minShares), maxShares)
			dst.CPU.Shares = &n
		}
		dst.CPU.Period = src.CPU.Period
		if dst.CPU.Quota != nil && *dst.CPU.Quota != 0 && (dst.CPU.Period == nil || *dst.CPU.Period == 0) {
			n := uint64(defaultPeriod) // crun writes no quota that is unlimited without one
			dst.CPU.Period = &n
		}
	}
	if dst.Pids != nil && dst.Pids.Limit == nil {
		dst.Pids = nil // crun requires the limit
	}
	return r.mapUnified(dst, src.Unified)
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
var guestControllers = set("cpu", "memory", "pids")

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
