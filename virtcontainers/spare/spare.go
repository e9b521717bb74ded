// Package spare knows the pool of spares: monitors with machines that were
// started, and have run a container, before anybody asked for one
// (hypervisor.spares). Commands take from it, monitors look after themselves in
// it.
package spare

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// Key says which sandboxes a spare can become.
type Key struct {
	// Machine is a digest of all that the machine is made by: configuration,
	// runtime, guest image, kernel, QEMU.
	Machine string
	// Surroundings is a digest of what the processes have from their parent:
	// namespaces, root folder, limits, capabilities.
	Surroundings string
}

// KeyOf gives the key of what this process would start with a configuration;
// exe is the runtime's path.
func KeyOf(cfg *config.Config, exe string) (Key, error) {
	hv := &cfg.Hypervisor
	image, err := hv.GuestImagePath(exe)
	if err != nil {
		return Key{}, err
	}
	qemu, err := hv.QEMUPath()
	if err != nil {
		return Key{}, err
	}
	files := []string{exe, qemu, filepath.Join(image, "manifest.json")}
	if hv.Kernel != "" {
		files = append(files, hv.Kernel)
	}
	var versions []string
	for _, path := range files {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return Key{}, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		versions = append(versions, fmt.Sprintf("%s %d:%d %d %d.%d", path, st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec))
	}
	around, err := surroundings()
	if err != nil {
		return Key{}, err
	}
	var k Key
	if k.Machine, err = digest(*cfg, versions); err != nil {
		return Key{}, err
	}
	k.Surroundings, err = digest(around)
	return k, err
}

// surroundings are what a process has from who starts it, and keeps when it is
// moved into another cgroup.
func surroundings() ([]string, error) {
	var around []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		// Those of this thread: the main one, whose /proc/self has, may be the one that
		// has entered a container's network namespace to start its shim there.
		at, err := os.Readlink("/proc/thread-self/ns/" + ns)
		if err != nil {
			return nil, err
		}
		around = append(around, at)
	}
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return nil, &os.PathError{Op: "stat", Path: "/", Err: err}
	}
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		return nil, err
	}
	around = append(around, fmt.Sprintf("%d:%d", root.Dev, root.Ino), string(limits))
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		for _, of := range []string{"Cap", "NoNewPrivs", "Seccomp"} {
			if strings.HasPrefix(line, of) {
				around = append(around, line)
			}
		}
	}
	label, _ := os.ReadFile("/proc/self/attr/current") // of a security module, where there is one
	return append(around, string(label)), nil
}

func digest(v ...any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("key of a spare: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

// Of is the key of a spare that there is.
func Of(sp *state.Spare) Key { return Key{sp.Machine, sp.Surroundings} }

// Usable reports whether a spare can be claimed: its processes live.
func Usable(sp *state.Spare) bool {
	return sp.Ready && sp.Monitor.Alive() && sp.VM.Alive() && !sp.Monitor.Ending() && !sp.VM.Ending()
}

// Lives reports whether a spare can be claimed, or may become so: its monitor
// lives and starts the machine.
func Lives(sp *state.Spare) bool {
	return Usable(sp) || !sp.Ready && sp.Monitor.Alive() && !sp.Monitor.Ending()
}

// End takes a spare out of the pool, ends its processes and removes what is on
// disk and its cgroup. That somebody has claimed it, or ended it, is no error.
func End(ctx context.Context, store *state.Store, id string) error {
	ended, err := store.WithdrawSpare(id)
	if errors.Is(err, state.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sp, err := store.Spare(ended)
	if err == nil {
		err = errors.Join(sp.Monitor.Kill(ctx), sp.VM.Kill(ctx), RemoveCgroup(ctx, sp.Cgroup))
	} else if errors.Is(err, state.ErrNotExist) || errors.Is(err, state.ErrCorrupt) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("end spare %s: %w", id, err)
	}
	return store.RemoveSpare(ended)
}

// EndAll ends all spares for which unwanted is true, and those that cannot be
// claimed any more.
func EndAll(ctx context.Context, store *state.Store, unwanted func(*state.Spare) bool) (ended []string, err error) {
	ids, gone, err := store.Spares()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, id := range ids {
		if sp, err := store.Spare(id); err == nil && !unwanted(sp) {
			continue
		}
		if err := End(ctx, store, id); err != nil {
			errs = append(errs, err)
			continue
		}
		ended = append(ended, id)
	}
	for _, id := range gone {
		errs = append(errs, End(ctx, store, id))
	}
	return ended, errors.Join(errs...)
}

// All is for EndAll.
func All(*state.Spare) bool { return true }

// endTimeout caps the end of a spare.
const endTimeout = 10 * time.Second

// MakeRoom ends all spares of a root, for whoever is short of memory, and
// reports whether there were any.
func MakeRoom(ctx context.Context, store *state.Store) bool {
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	ended, _ := EndAll(ctx, store, All) // what could not be ended is doctor's
	return len(ended) > 0
}

// cgroupPrefix begins the name of a spare's cgroup, below the root: it is in
// nobody's.
const cgroupPrefix = "/vc-runtime-spare-"

// lowWeight is what a spare gets of the host's CPUs where others want them too: half.
// Not less, since others wait for its place among the machines that start. It is
// in the unit of linux.resources.cpu.shares.
const lowWeight = 512

// Cgroup is that of a spare; the zero one is none, as on a host without cgroups.
type Cgroup struct{ cg *cgroup.Cgroup }

// NewCgroup decides on the cgroup of a spare and makes nothing yet: its record
// comes first. owner marks it.
func NewCgroup(owner, id string) (Cgroup, error) {
	cg, err := cgroup.New(cgroup.Placement{Path: cgroupPrefix + id})
	if errors.Is(err, cgroup.ErrNone) {
		return Cgroup{}, nil
	}
	if err != nil {
		return Cgroup{}, err
	}
	cg.SetOwner(owner)
	return Cgroup{cg}, nil
}

// Record is what Leave and RemoveCgroup need.
func (c Cgroup) Record() json.RawMessage {
	if c.cg == nil {
		return nil
	}
	b, _ := json.Marshal(c.cg) // strings and booleans
	return b
}

// Enter makes it, with a process in it.
func (c Cgroup) Enter(ctx context.Context, pid int) error {
	if c.cg == nil {
		return nil
	}
	return c.cg.Create(ctx, pid, cgroup.Limits{CPUShares: lowWeight})
}

// Remove removes it when its processes have gone.
func (c Cgroup) Remove(ctx context.Context) error {
	if c.cg == nil {
		return nil
	}
	return c.cg.Remove(ctx)
}

// Detach moves the caller out of the cgroups that it is in, to the root of each
// hierarchy.
func Detach() error {
	c, err := NewCgroup("", "none") // which is never made
	if err != nil || c.cg == nil {
		return err
	}
	return c.cg.Leave()
}

// Leave moves the caller out of the cgroup of a spare, to the root of each
// hierarchy.
func Leave(record json.RawMessage) error {
	if record == nil {
		return nil
	}
	cg, err := cgroup.Load(record)
	if err != nil {
		return err
	}
	return cg.Leave()
}

// RemoveCgroup removes the cgroup of a spare whose processes have gone.
func RemoveCgroup(ctx context.Context, record json.RawMessage) error {
	if record == nil {
		return nil
	}
	cg, err := cgroup.Load(record)
	if err != nil {
		return err
	}
	return cg.Remove(ctx)
}
