package cgroup

import (
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits are what the host enforces on the VM and its helpers; the zero Limits
// are none.
type Limits struct {
	// Memory is in bytes and covers the guest's RAM, QEMU and the file server.
	Memory uint64
	// CPUShares is in the unit of linux.resources.cpu.shares, 2 to 262144.
	CPUShares uint64
}

// LimitsFor gives the host's limits for a container with resources r in a
// guest of guestMemory bytes of RAM. overhead is what QEMU and the file server
// may need on top, in bytes; 0 means that the host has no limits, which is the
// default. A container without a memory limit has none on the host either.
func LimitsFor(r *specs.LinuxResources, guestMemory, overhead uint64) Limits {
	var l Limits
	if r == nil || overhead == 0 {
		return l
	}
	if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
		l.Memory = guestMemory + overhead
	}
	if r.CPU != nil && r.CPU.Shares != nil && *r.CPU.Shares > 0 {
		l.CPUShares = min(max(*r.CPU.Shares, 2), 262144)
	}
	return l
}

// apply writes the limits that belong to the group's hierarchy. A hybrid
// host's v2 hierarchy has none of the controllers.
func (l Limits) apply(g *Group) error {
	controllers := strings.Split(g.Controllers, ",")
	var files [][2]string
	if l.Memory != 0 {
		v := strconv.FormatUint(l.Memory, 10)
		if slices.Contains(controllers, "memory") {
			files = append(files, [2]string{"memory.limit_in_bytes", v})
		} else if g.offers("memory") {
			files = append(files, [2]string{"memory.max", v})
		}
	}
	if l.CPUShares != 0 {
		if slices.Contains(controllers, "cpu") {
			files = append(files, [2]string{"cpu.shares", strconv.FormatUint(l.CPUShares, 10)})
		} else if g.offers("cpu") {
			files = append(files, [2]string{"cpu.weight", strconv.FormatUint(weight(l.CPUShares), 10)})
		}
	}
	for _, f := range files {
		if err := write(filepath.Join(g.Dir, f[0]), f[1]); err != nil {
			return err
		}
	}
	return nil
}

// weight converts v1's cpu.shares to v2's cpu.weight with the function of
// github.com/opencontainers/cgroups: 2 is 1, the default of 1024 is that of
// 100, and 262144 is 10000.
func weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}
