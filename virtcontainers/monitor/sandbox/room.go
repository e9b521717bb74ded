package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor/queue"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// startsFolder is that of the queue, in the cache: machines of all roots are
// in one line.
const startsFolder = "starts"

// place waits until it is this machine's turn to start. The place is held until
// the machine needs the host less.
func (b *booting) place(ctx context.Context) (*queue.Place, error) {
	defer trace.Begin(ctx, trace.Phase, "wait for the turn").End()
	q, err := queue.Open(filepath.Join(b.hv.CacheDir, startsFolder), b.hv.Starts(), b.bootLimit())
	if err != nil {
		return nil, err
	}
	return q.Enter(ctx)
}

// room checks that the host, and the cgroup that this process is in, have the
// memory that the machine may take. What is there now may be gone when the
// guest comes to use it: this is for an error that says what is wrong, instead
// of a machine that is killed as soon as it runs.
func (b *booting) room() error {
	reserve := b.hv.MemoryReserve
	if reserve == 0 {
		return nil
	}
	host, err := availableMemory()
	if err != nil {
		return err
	}
	inCgroup, err := cgroup.FreeMemory()
	if err != nil {
		return err
	}
	return enough(b.hv.Memory, reserve, config.Size(host), inCgroup)
}

// enough compares what a machine may take with what there is.
func enough(machine, reserve, host config.Size, inCgroup cgroup.Room) error {
	if machine+reserve > host {
		return fmt.Errorf("too little memory for a virtual machine: the host has %d MiB (MemAvailable), expected at least %d MiB: "+
			"hypervisor.memory = %q and hypervisor.memory_reserve = %q: %w",
			host/config.MiB, (machine+reserve)/config.MiB, machine, reserve, unix.ENOMEM)
	}
	if uint64(machine) > inCgroup.Bytes {
		return fmt.Errorf("too little memory for a virtual machine: %s leaves %d MiB, expected at least %d MiB: hypervisor.memory = %q: %w",
			inCgroup.Limit, inCgroup.Bytes/uint64(config.MiB), machine/config.MiB, machine, unix.ENOMEM)
	}
	return nil
}

// availableMemory is how much memory programs can get without swapping, in bytes
// (proc(5), MemAvailable).
func availableMemory() (uint64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if f := bytes.Fields(line); len(f) == 3 && string(f[0]) == "MemAvailable:" {
			kib, err := strconv.ParseUint(string(f[1]), 10, 64)
			if err != nil || kib > math.MaxUint64>>10 {
				return 0, fmt.Errorf("/proc/meminfo: %q", line)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("/proc/meminfo has no MemAvailable")
}
