// Package stats makes runc's statistics of a container from the files of its
// cgroup in the guest. It runs in the command `events`. The files are the
// guest's word: what cannot be read in them counts as 0.
package stats

import (
	"math"
	"strconv"
	"strings"
)

// Event is one line of `events` (runc 1.1, types/events.go).
type Event struct {
	Type string `json:"type"` // "stats" or "oom"
	ID   string `json:"id"`
	Data *Stats `json:"data,omitempty"`
}

// Stats are the statistics of a container, with the names that runc gives them
// in JSON. Times are in nanoseconds, sizes in bytes.
type Stats struct {
	CPU               CPU                `json:"cpu"`
	CPUSet            CPUSet             `json:"cpuset"`
	Memory            Memory             `json:"memory"`
	Pids              Pids               `json:"pids"`
	Blkio             Blkio              `json:"blkio"`
	Hugetlb           map[string]Hugetlb `json:"hugetlb"`
	IntelRdt          struct{}           `json:"intel_rdt"`
	NetworkInterfaces []Interface        `json:"network_interfaces"`
}

// CPU is what the container has computed.
type CPU struct {
	Usage      CPUUsage   `json:"usage"`
	Throttling Throttling `json:"throttling"`
}

// CPUUsage is in nanoseconds. Cgroup v2 does not count by CPU.
type CPUUsage struct {
	Total  uint64 `json:"total,omitempty"`
	Kernel uint64 `json:"kernel"`
	User   uint64 `json:"user"`
}

// Throttling is what a quota has cost; the time is in nanoseconds.
type Throttling struct {
	Periods          uint64 `json:"periods,omitempty"`
	ThrottledPeriods uint64 `json:"throttledPeriods,omitempty"`
	ThrottledTime    uint64 `json:"throttledTime,omitempty"`
}

// CPUSet is where the container may run. Only cgroup v1 has more of it than
// the first and the third, and runc writes it all the same.
type CPUSet struct {
	CPUs                  []uint16 `json:"cpus,omitempty"`
	CPUExclusive          uint64   `json:"cpu_exclusive"`
	Mems                  []uint16 `json:"mems,omitempty"`
	MemHardwall           uint64   `json:"mem_hardwall"`
	MemExclusive          uint64   `json:"mem_exclusive"`
	MemoryMigrate         uint64   `json:"memory_migrate"`
	MemorySpreadPage      uint64   `json:"memory_spread_page"`
	MemorySpreadSlab      uint64   `json:"memory_spread_slab"`
	MemoryPressure        uint64   `json:"memory_pressure"`
	SchedLoadBalance      uint64   `json:"sched_load_balance"`
	SchedRelaxDomainLevel int64    `json:"sched_relax_domain_level"`
}

// Memory is in bytes. Raw is memory.stat.
type Memory struct {
	Cache     uint64            `json:"cache,omitempty"`
	Usage     MemoryEntry       `json:"usage"`
	Swap      MemoryEntry       `json:"swap"`
	Kernel    MemoryEntry       `json:"kernel"`
	KernelTCP MemoryEntry       `json:"kernelTCP"`
	Raw       map[string]uint64 `json:"raw,omitempty"`
}

// MemoryEntry is one kind of memory. A limit of 2^64-1 is none.
type MemoryEntry struct {
	Limit   uint64 `json:"limit"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Pids counts processes and threads. A limit of 0 is none.
type Pids struct {
	Current uint64 `json:"current,omitempty"`
	Limit   uint64 `json:"limit,omitempty"`
}

// Blkio is what went through block devices of the guest.
type Blkio struct {
	IoServiceBytesRecursive []BlkioEntry `json:"ioServiceBytesRecursive,omitempty"`
	IoServicedRecursive     []BlkioEntry `json:"ioServicedRecursive,omitempty"`
}

// BlkioEntry is a count of one operation on one device.
type BlkioEntry struct {
	Major uint64 `json:"major,omitempty"`
	Minor uint64 `json:"minor,omitempty"`
	Op    string `json:"op,omitempty"`
	Value uint64 `json:"value,omitempty"`
}

// Hugetlb is in bytes, by the size of the pages.
type Hugetlb struct {
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt"`
}

// Interface has the counters of a network interface.
type Interface struct {
	Name      string
	RxBytes   uint64
	RxPackets uint64
	RxErrors  uint64
	RxDropped uint64
	TxBytes   uint64
	TxPackets uint64
	TxErrors  uint64
	TxDropped uint64
}

// Files are files of a cgroup v2 by name, with their content
// (Documentation/admin-guide/cgroup-v2.rst of the kernel).
type Files map[string]string

// Stats translates the files as runc does (github.com/opencontainers/cgroups,
// package fs2).
func (f Files) Stats(interfaces []Interface) *Stats {
	s := &Stats{
		CPU:               f.cpu(),
		CPUSet:            CPUSet{CPUs: f.list("cpuset.cpus.effective"), Mems: f.list("cpuset.mems.effective")},
		Memory:            f.memory(),
		Pids:              Pids{Current: f.number("pids.current"), Limit: f.number("pids.max")},
		Blkio:             f.blkio(),
		Hugetlb:           f.hugetlb(),
		NetworkInterfaces: interfaces,
	}
	if s.Pids.Limit == unlimited {
		s.Pids.Limit = 0
	}
	return s
}

func (f Files) cpu() CPU {
	const usec = 1000 // in ns
	st := f.keyed("cpu.stat")
	return CPU{
		Usage: CPUUsage{Total: st["usage_usec"] * usec, Kernel: st["system_usec"] * usec, User: st["user_usec"] * usec},
		Throttling: Throttling{
			Periods: st["nr_periods"], ThrottledPeriods: st["nr_throttled"], ThrottledTime: st["throttled_usec"] * usec,
		},
	}
}

func (f Files) memory() Memory {
	raw := f.keyed("memory.stat")
	m := Memory{
		Cache: raw["file"], Raw: raw,
		Usage: MemoryEntry{
			Limit: f.number("memory.max"), Usage: f.number("memory.current"), Max: f.number("memory.peak"),
			Failcnt: f.keyed("memory.events")["max"],
		},
		Swap: MemoryEntry{Limit: f.number("memory.swap.max"), Usage: f.number("memory.swap.current")},
	}
	// Swap is memory and swap together, as in cgroup v1.
	m.Swap.Usage += m.Usage.Usage
	if m.Swap.Limit != unlimited {
		m.Swap.Limit += min(m.Usage.Limit, unlimited-m.Swap.Limit)
	}
	return m
}

func (f Files) blkio() Blkio {
	var b Blkio
	for line := range strings.Lines(f["io.stat"]) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		major, minor, ok := strings.Cut(fields[0], ":")
		if !ok {
			continue
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			to := &b.IoServiceBytesRecursive
			e := BlkioEntry{Major: number(major), Minor: number(minor), Value: number(value)}
			switch key {
			case "rbytes":
				e.Op = "Read"
			case "wbytes":
				e.Op = "Write"
			case "rios":
				e.Op, to = "Read", &b.IoServicedRecursive
			case "wios":
				e.Op, to = "Write", &b.IoServicedRecursive
			default:
				continue
			}
			*to = append(*to, e)
		}
	}
	return b
}

func (f Files) hugetlb() map[string]Hugetlb {
	sizes := make(map[string]Hugetlb)
	for name := range f {
		size, isHugetlb := strings.CutPrefix(name, "hugetlb.")
		size, isCurrent := strings.CutSuffix(size, ".current")
		if !isHugetlb || !isCurrent || strings.Contains(size, ".") { // .rsvd
			continue
		}
		sizes[size] = Hugetlb{
			Usage: f.number(name), Failcnt: f.keyed("hugetlb." + size + ".events")["max"],
		}
	}
	return sizes
}

// unlimited is "max" in a file.
const unlimited = math.MaxUint64

func (f Files) number(name string) uint64 { return number(f[name]) }

func number(text string) uint64 {
	text = strings.TrimSpace(text)
	if text == "max" {
		return unlimited
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// keyed reads a file with a key and a number on each line.
func (f Files) keyed(name string) map[string]uint64 {
	values := make(map[string]uint64)
	for line := range strings.Lines(f[name]) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok {
			values[key] = number(value)
		}
	}
	return values
}

// maxListed bounds what a list such as 0-65535 becomes.
const maxListed = 1024

// list reads a list of numbers such as 0-2,7 (cpuset(7)).
func (f Files) list(name string) []uint16 {
	var all []uint16
	for part := range strings.SplitSeq(strings.TrimSpace(f[name]), ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		low, err := strconv.ParseUint(from, 10, 16)
		if err != nil {
			return nil
		}
		high, err := strconv.ParseUint(to, 10, 16)
		if err != nil {
			return nil
		}
		for n := low; n <= high && len(all) < maxListed; n++ {
			all = append(all, uint16(n))
		}
	}
	return all
}
