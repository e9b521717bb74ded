package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// Places in sysfs (Documentation/admin-guide/mm/memory-hotplug.rst and
// cputopology.rst of the kernel).
const (
	cpuFolder    = "/sys/devices/system/cpu"
	memoryFolder = "/sys/devices/system/memory"
	netFolder    = "/sys/class/net"
)

// Machine is the virtual machine, as its kernel sees it.
type Machine struct{}

// Online waits until the kernel has that many CPUs and MiB of memory, and
// puts them to use: what is plugged into a running machine lies idle at first.
func (Machine) Online(ctx context.Context, cpus int, memory uint64) error {
	ev, err := listenUevents()
	if err != nil {
		return err
	}
	defer ev.close()
	for {
		haveCPUs, err := onlineAll(filepath.Join(cpuFolder, "cpu[0-9]*", "online"), "1")
		if err != nil {
			return err
		}
		haveMemory, err := onlineMemory()
		if err != nil {
			return err
		}
		// The first CPU cannot be switched off and has no such file.
		if haveCPUs+1 >= cpus && haveMemory >= memory {
			return nil
		}
		if err := ev.wait(ctx); err != nil {
			return fmt.Errorf("wait for %d CPUs and %d MiB of memory, have %d and %d: %w", cpus, memory, haveCPUs+1, haveMemory, err)
		}
	}
}

// onlineAll writes value into the files that do not have it, and gives the
// number of files.
func onlineAll(pattern, value string) (int, error) {
	files, err := filepath.Glob(pattern)
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(b)) != value {
			err = os.WriteFile(file, []byte(value), 0)
		}
		// EINVAL: somebody else has done it meanwhile.
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return 0, fmt.Errorf("put to use: %w", err)
		}
	}
	return len(files), nil
}

// onlineMemory puts all memory blocks to use and gives their size in MiB.
func onlineMemory() (uint64, error) {
	b, err := os.ReadFile(filepath.Join(memoryFolder, "block_size_bytes"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("the guest's kernel cannot grow its memory: %w", unix.ENOTSUP)
	}
	if err != nil {
		return 0, err
	}
	size, err := strconv.ParseUint(strings.TrimSpace(string(b)), 16, 64)
	if err != nil {
		return 0, fmt.Errorf("size of memory blocks: %w", err)
	}
	blocks, err := onlineAll(filepath.Join(memoryFolder, "memory[0-9]*", "state"), "online")
	return uint64(blocks) * size >> 20, err
}

// onlineByItself lets the kernel put memory to use as soon as it is plugged.
// A kernel that cannot leaves it to Online.
func onlineByItself() error {
	err := os.WriteFile(filepath.Join(memoryFolder, "auto_online_blocks"), []byte("online"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Counters are those of the network interfaces but lo.
func (Machine) Counters() ([]*api.InterfaceCounters, error) {
	entries, err := os.ReadDir(netFolder)
	if err != nil {
		return nil, err
	}
	var all []*api.InterfaceCounters
	for _, e := range entries {
		if e.Name() == "lo" {
			continue
		}
		c := &api.InterfaceCounters{Name: e.Name()}
		for name, to := range map[string]*uint64{
			"rx_bytes": &c.RxBytes, "rx_packets": &c.RxPackets, "rx_errors": &c.RxErrors, "rx_dropped": &c.RxDropped,
			"tx_bytes": &c.TxBytes, "tx_packets": &c.TxPackets, "tx_errors": &c.TxErrors, "tx_dropped": &c.TxDropped,
		} {
			b, err := os.ReadFile(filepath.Join(netFolder, e.Name(), "statistics", name))
			if err != nil {
				continue // it is being unplugged
			}
			if *to, err = strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64); err != nil {
				return nil, fmt.Errorf("counter %s of %s: %w", name, e.Name(), err)
			}
		}
		all = append(all, c)
	}
	return all, nil
}
