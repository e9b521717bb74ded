package config

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Most is the most that a machine grows to: what is configured, else what the
// host has. It is never less than the machine has at its start.
func (h *Hypervisor) Most() (cpus int, memory Size) {
	cpus, memory = h.CPUs, h.Memory
	if h.Sizing == SizingStatic {
		return cpus, memory
	}
	mostCPUs, mostMemory := h.MaxCPUs, h.MaxMemory
	if mostCPUs == 0 {
		mostCPUs = min(hostCPUs(), maxCPUs)
	}
	if mostMemory == 0 {
		mostMemory = min(hostMemory(), maxMemory)
	}
	return max(cpus, mostCPUs), max(memory, mostMemory)
}

// Starts is how many machines start at the same time: what is configured, else
// one for each CPU of the host, but two at least.
func (h *Hypervisor) Starts() int {
	if h.ConcurrentStarts != 0 {
		return h.ConcurrentStarts
	}
	return max(2, hostCPUs())
}

// The most that is taken from the host without being asked for: each possible
// CPU costs the guest some memory, and addresses of memory have 40 bits.
const (
	maxCPUs   = 32
	maxMemory = 512 * GiB
)

// hostCPUs counts the host's CPUs: all of them, wherever this process may run.
func hostCPUs() int {
	b, err := os.ReadFile("/sys/devices/system/cpu/present") // 0-7
	if err != nil {
		return 1
	}
	_, last, _ := strings.Cut(strings.TrimSpace(string(b)), "-")
	n, err := strconv.Atoi(last)
	if err != nil {
		return 1
	}
	return n + 1
}

// hostMemory is the host's RAM, in whole MiB.
func hostMemory() Size {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return Size(uint64(info.Totalram)*uint64(info.Unit)) / MiB * MiB
}
