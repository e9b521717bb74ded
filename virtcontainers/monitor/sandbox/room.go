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
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// startsFolder is that of the queue, in the cache: machines of all roots are
// in one line.
const startsFolder = "starts"

// place waits until it is this machine's turn to start. The place is held until
// the machine needs the host less. A spare's turn comes after everybody's, however
// long the starts of those take that make progress.
func (b *booting) place(ctx context.Context) (*queue.Place, error) {
	defer trace.Begin(ctx, trace.Phase, "wait for the turn").End()
	patience := b.bootLimit()
	if b.spare {
		patience *= mostRatio
	}
	q, err := queue.Open(filepath.Join(b.hv.CacheDir, startsFolder), b.hv.Starts(), patience)
	if err != nil {
		return nil, err
	}
	if b.spare {
		return q.EnterLast(ctx)
	}
	return q.Enter(ctx)
}

// room checks that the host, and the cgroup that this process is in, have the
// memory that the machine may take. What is there now may be gone when the
// guest comes to use it: this is for an error that says what is wrong, instead
// of a machine that is killed as soon as it runs.
func (b *booting) room() error { return Room(b.hv) }

// Room is that check for a machine of a configuration.
func Room(hv *config.Hypervisor) error {
	n := need{memory: hv.Memory, who: "a virtual machine", why: fmt.Sprintf("hypervisor.memory = %q", hv.Memory)}
	return n.check(hv.MemoryReserve)
}

// roomAnyhow is room, and ends spares to make some.
func (b *booting) roomAnyhow(ctx context.Context, cfg *monitor.SandboxConfig) error {
	err := b.room()
	if b.hv.Spares == 0 || b.spare || !errors.Is(err, unix.ENOMEM) {
		return err
	}
	store, openErr := state.Open(cfg.Root)
	if openErr != nil || !spare.MakeRoom(ctx, store) {
		return err
	}
	return b.room()
}

// describing is which part of its memory a guest's kernel needs at once to
// describe it: 64 bytes for a page of 4096.
const describing = 64

// roomToGrow is room for a machine that runs, before so many MiB are plugged into
// it. Those are what the limits of its containers add up to, which hosts promise
// more of than they have: it is the guest's affair how much it will use. What it
// takes at once has to be there.
func roomToGrow(mib int, reserve config.Size) error {
	n := need{
		memory: (config.Size(mib)*config.MiB + describing - 1) / describing,
		who:    fmt.Sprintf("a virtual machine to grow by %d MiB", mib),
		why:    "what the guest needs to describe it",
	}
	return n.check(reserve)
}

// need is memory that is about to be taken.
type need struct {
	memory   config.Size
	who, why string // for an error: who needs it, and where the number comes from
}

// check compares the need with the host and the cgroup as they are. Without a
// reserve it does not look.
func (n need) check(reserve config.Size) error {
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
	return n.fits(reserve, config.Size(host), inCgroup)
}

// fits compares the need with what there is.
func (n need) fits(reserve, host config.Size, inCgroup cgroup.Room) error {
	if n.memory+reserve > host {
		return fmt.Errorf("too little memory for %s: the host has %d MiB (MemAvailable), expected at least %d MiB: "+
			"%s and hypervisor.memory_reserve = %q: %w",
			n.who, host/config.MiB, (n.memory+reserve)/config.MiB, n.why, reserve, unix.ENOMEM)
	}
	if uint64(n.memory) > inCgroup.Bytes {
		return fmt.Errorf("too little memory for %s: %s leaves %d MiB, expected at least %d MiB: %s: %w",
			n.who, inCgroup.Limit, inCgroup.Bytes/uint64(config.MiB), n.memory/config.MiB, n.why, unix.ENOMEM)
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
