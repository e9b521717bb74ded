package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits are what the host's cgroup of a container has of the container's own:
// what numbers the host's CPUs and devices, and its weight among others. The
// zero Limits are none.
type Limits struct {
	CPUShares  uint64 // in the unit of linux.resources.cpu.shares, 2 to 262144
	CPUs, Mems string // lists of the host's CPUs and memory nodes (cpuset(7))
	BlockIO    *specs.LinuxBlockIO
}

// LimitsOf gives the host's limits for a container with resources r. Its block
// I/O is done by its file server, which is always in its cgroup. Its
// CPUs are the VM's, which is there only where it has a machine of its own.
func LimitsOf(r *specs.LinuxResources, ownMachine bool) Limits {
	var l Limits
	if r == nil {
		return l
	}
	l.BlockIO = r.BlockIO
	if r.CPU == nil || !ownMachine {
		return l
	}
	l.CPUs, l.Mems = r.CPU.Cpus, r.CPU.Mems
	if r.CPU.Shares != nil && *r.CPU.Shares > 0 {
		l.CPUShares = min(max(*r.CPU.Shares, 2), 262144)
	}
	return l
}

// Limit sets limits of a cgroup that exists. What the limits do not name stays.
func (c *Cgroup) Limit(ctx context.Context, lim Limits) error {
	return c.limit(ctx, lim.properties(c.v2()), func(g *Group) ([]setting, error) { return lim.settings(g, c.Unit != "") })
}

// LimitMemory bounds the memory of the cgroup's processes, in bytes: the
// guest's RAM, what QEMU and the file server need, and page cache.
func (c *Cgroup) LimitMemory(ctx context.Context, bytes uint64) error {
	name := "MemoryLimit"
	if c.v2() {
		name = "MemoryMax"
	}
	props := []dbus.Property{{Name: name, Value: godbus.MakeVariant(bytes)}}
	return c.limit(ctx, props, func(g *Group) ([]setting, error) {
		value := strconv.FormatUint(bytes, 10)
		switch {
		case c.Unit != "":
			return nil, nil
		case g.has("memory"):
			return []setting{{"memory.limit_in_bytes", value}}, nil
		case g.offers("memory"):
			return []setting{{"memory.max", value}}, nil
		}
		return nil, nil
	})
}

// limit has systemd set the properties of the scope, where there is one, and
// writes the settings.
func (c *Cgroup) limit(ctx context.Context, props []dbus.Property, settings func(*Group) ([]setting, error)) error {
	if c.Unit != "" && len(props) > 0 {
		if err := c.units.set(ctx, c.Unit, props); err != nil {
			return fmt.Errorf("limit unit %s: %w", c.Unit, err)
		}
	}
	for i := range c.Groups {
		g := &c.Groups[i]
		all, err := settings(g)
		if err == nil {
			err = g.apply(all)
		}
		if err != nil {
			return fmt.Errorf("limit cgroup: %w", err)
		}
	}
	return nil
}

// properties are those that systemd would undo if they were written to the
// folder instead (systemd.resource-control(5)).
func (l Limits) properties(v2 bool) []dbus.Property {
	var props []dbus.Property
	set := func(name string, value any) {
		props = append(props, dbus.Property{Name: name, Value: godbus.MakeVariant(value)})
	}
	switch {
	case l.CPUShares != 0 && v2:
		set("CPUWeight", Weight(l.CPUShares))
	case l.CPUShares != 0:
		set("CPUShares", l.CPUShares)
	}
	if v2 { // systemd knows nothing of v1's cpusets
		for name, list := range map[string]string{"AllowedCPUs": l.CPUs, "AllowedMemoryNodes": l.Mems} {
			if mask, err := bitmask(list); err == nil && list != "" {
				set(name, mask)
			}
		}
	}
	return props
}

// check says what is wrong with a list of CPUs or memory nodes.
func (l Limits) check() error {
	for field, list := range map[string]string{"cpus": l.CPUs, "mems": l.Mems} {
		if _, err := bitmask(list); err != nil {
			return fmt.Errorf("linux.resources.cpu.%s: %w", field, err)
		}
	}
	return nil
}

// maxBit bounds the numbers in a list: more than a kernel has of either.
const maxBit = 8192

// bitmask reads a list such as 0-2,7 as systemd wants it: one bit for each
// number, the least in the first byte.
func bitmask(list string) ([]byte, error) {
	var mask []byte
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		low, err1 := strconv.ParseUint(from, 10, 16)
		high, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || low > high || high >= maxBit {
			return nil, fmt.Errorf("%q: expected a list of numbers such as 0-2,7", list)
		}
		for n := low; n <= high; n++ {
			for uint64(len(mask)) <= n/8 {
				mask = append(mask, 0)
			}
			mask[n/8] |= 1 << (n % 8)
		}
	}
	return mask, nil
}

// setting is a file of a cgroup and what to write into it.
type setting struct{ file, value string }

func (g *Group) apply(all []setting) error {
	for _, s := range all {
		if err := write(filepath.Join(g.Dir, s.file), s.value); err != nil {
			return err
		}
	}
	return nil
}

// settings are the files of a group's hierarchy. Those that systemd sees to
// are left out for a unit. A hybrid host's v2 hierarchy has none of the
// controllers.
func (l Limits) settings(g *Group, unit bool) ([]setting, error) {
	if err := l.check(); err != nil {
		return nil, err
	}
	var all []setting
	add := func(file, value string) {
		if value != "" {
			all = append(all, setting{file, value})
		}
	}
	if l.CPUShares != 0 && !unit {
		if g.has("cpu") {
			add("cpu.shares", strconv.FormatUint(l.CPUShares, 10))
		} else if g.offers("cpu") {
			add("cpu.weight", strconv.FormatUint(Weight(l.CPUShares), 10))
		}
	}
	if g.has("cpuset") || g.offers("cpuset") && !unit {
		add("cpuset.cpus", l.CPUs)
		add("cpuset.mems", l.Mems)
	}
	if l.BlockIO == nil {
		return all, nil
	}
	var io []setting
	var err error
	switch {
	case g.has("blkio"):
		io, err = blkioSettings(g, l.BlockIO)
	case g.offers("io"):
		io, err = ioSettings(g, l.BlockIO)
	}
	return append(all, io...), err
}

// errNoWeights is a kernel without a scheduler that heeds weights.
var errNoWeights = errors.New("the host's kernel has no weights for block I/O")

// weightFile finds the first of the files that the kernel has.
func weightFile(g *Group, names ...string) (string, error) {
	for _, name := range names {
		_, err := os.Stat(filepath.Join(g.Dir, name))
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("linux.resources.blockIO: %w", errNoWeights)
}

// blkioSettings are those of cgroup v1
// (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).
func blkioSettings(g *Group, b *specs.LinuxBlockIO) ([]setting, error) {
	var all []setting
	if b.Weight != nil && *b.Weight != 0 {
		file, err := weightFile(g, "blkio.weight", "blkio.bfq.weight")
		if err != nil {
			return nil, err
		}
		all = append(all, setting{file, strconv.Itoa(int(*b.Weight))})
	}
	for _, d := range b.WeightDevice {
		file, err := weightFile(g, "blkio.weight_device", "blkio.bfq.weight_device")
		if err != nil {
			return nil, err
		}
		if d.Weight != nil {
			all = append(all, setting{file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight)})
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			all = append(all, setting{"blkio.throttle." + t.v1, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)})
		}
	}
	return all, nil
}

// ioSettings are those of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst).
func ioSettings(g *Group, b *specs.LinuxBlockIO) ([]setting, error) {
	var all []setting
	if b.Weight != nil && *b.Weight != 0 {
		file, err := weightFile(g, "io.bfq.weight", "io.weight")
		if err != nil {
			return nil, err
		}
		value := strconv.Itoa(int(*b.Weight))
		if file == "io.weight" {
			value = "default " + strconv.FormatUint(ioWeight(*b.Weight), 10)
		}
		all = append(all, setting{file, value})
	}
	for _, d := range b.WeightDevice {
		if d.Weight == nil {
			continue
		}
		file, err := weightFile(g, "io.bfq.weight")
		if err != nil {
			return nil, err
		}
		all = append(all, setting{file, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight)})
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			all = append(all, setting{"io.max", fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate)})
		}
	}
	return all, nil
}

// throttle is one kind of bound on a device's use, and its names.
type throttle struct {
	v1, v2  string
	devices []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

// has reports whether the group is of the v1 hierarchy with the controller.
func (g *Group) has(controller string) bool {
	return slices.Contains(strings.Split(g.Controllers, ","), controller)
}

// offers reports whether a v2 group has the controller.
func (g *Group) offers(controller string) bool {
	if g.Controllers != "" {
		return false
	}
	b, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(b)), controller)
}

// Weight converts v1's cpu.shares to v2's cpu.weight with the function of
// github.com/opencontainers/cgroups: 2 is 1, the default of 1024 is that of
// 100, and 262144 is 10000.
func Weight(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}

// ioWeight converts blkio.weight, 10 to 1000, to io.weight, 1 to 10000, with
// the function of github.com/opencontainers/cgroups.
func ioWeight(w uint16) uint64 {
	return 1 + (uint64(min(max(w, 10), 1000))-10)*9999/990
}
