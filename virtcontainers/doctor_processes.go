package virtcontainers

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/network"
)

// guestPort is the name of the device by which a machine of ours is known: that
// of the channel to the agent (agent/api).
const guestPort = "name=vc.agent"

// program is argv[0] of the runtime's own processes (spawn).
const program = "vc-runtime"

// process is a process of the host, as far as doctor looks at it.
type process struct {
	state.Process
	parent int
	argv   []string
}

// is reports whether it is one of ours: vc-runtime monitor, say.
func (p *process) is(command string) bool {
	return p != nil && len(p.argv) > 1 && filepath.Base(p.argv[0]) == program && p.argv[1] == command
}

// processes looks for monitors, shims, machines and file servers that nobody
// owns.
func (d *doctor) processes(context.Context) ([]Orphan, error) {
	all, err := readProcesses()
	if err != nil {
		return nil, err
	}
	d.monitors = make(map[string]state.Process)
	var found []Orphan
	for _, p := range all {
		if root, id := rootAndID(p.argv); p.is(MonitorCommand) && root == d.r.Store.Root() {
			d.monitors[id] = p.Process
		}
		o := d.examine(all, p)
		if o == nil {
			continue
		}
		o.Name = pidName(p.Pid)
		if proc := p.Process; o.Owner != "" { // of what has none nobody knows that it is ours
			o.fix = func(ctx context.Context) error {
				return d.alone(o.Owner, func() error { return proc.Kill(ctx) })
			}
		}
		found = append(found, *o)
	}
	return found, nil
}

// examine gives an orphan, or nil for a process that has an owner, is none of
// ours, or of another root.
func (d *doctor) examine(all map[int]*process, p *process) *Orphan {
	parent := all[p.parent]
	switch {
	case p.is(MonitorCommand):
		root, id := rootAndID(p.argv)
		if root != d.r.Store.Root() || d.busy(id) && d.named(id, p.Process) {
			return nil
		}
		// In this order: one that is claimed meanwhile is found in its new place.
		if d.isSpare(id) || d.adopted(p.Process) || !p.Alive() {
			return nil
		}
		if o, err := d.r.Store.TryBegin(id, lifecycle.OpCleanup); err != nil || o == nil {
			return nil // somebody is about to record it
		} else {
			o.End()
		}
		if !p.sees(d.r.Store.Root()) {
			return nil
		}
		return &Orphan{Kind: OrphanMonitor, Owner: id, Why: "the record of its sandbox does not name it"}
	case p.is(ShimCommand):
		root, id := rootAndID(p.argv)
		if root != d.r.Store.Root() || d.busy(id) || !p.sees(d.r.Store.Root()) {
			return nil
		}
		return &Orphan{Kind: OrphanShim, Owner: id, Why: "the monitor of its sandbox is dead"}
	case slices.ContainsFunc(p.argv, func(a string) bool { return strings.Contains(a, guestPort) }):
		if parent != nil && filepath.Base(parent.argv0()) == program {
			return nil // it dies with that
		}
		root, id := state.Marked(machineName(p.argv))
		switch root {
		case d.r.Store.Root():
			return &Orphan{Kind: OrphanVM, Owner: id, Why: "its monitor is dead"}
		case "":
			return &Orphan{Kind: OrphanVM, Why: "it has no monitor, and its name tells no root: end it by hand if it is nobody's"}
		}
		return nil
	case strings.HasPrefix(filepath.Base(p.argv0()), "virtiofsd"):
		dir := after(p.argv, "source=")
		if in := filepath.Dir(dir); in != filepath.Join(d.r.Store.Root(), "sandboxes") && in != filepath.Join(d.r.Store.Root(), "spares") {
			return nil
		}
		// The server is two processes, a parent and its child. A spare's, for its
		// rehearsal, is its monitor's.
		if parent.is(ShimCommand) || parent.is(MonitorCommand) || parent != nil && after(parent.argv, "source=") == dir {
			return nil
		}
		return &Orphan{Kind: OrphanServer, Owner: filepath.Base(dir), Why: "its shim, or monitor, is dead"}
	}
	return nil
}

// sees reports whether the path of our root leads a process to it, as its arguments
// have the same path: in another mount namespace, that of a container with an engine in it, say, that
// may be another folder, with records of its own.
func (p *process) sees(root string) bool {
	own, err := os.Stat(root)
	if err != nil {
		return false
	}
	tasks := filepath.Join("/proc", strconv.Itoa(p.Pid), "task")
	entries, err := os.ReadDir(tasks)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if e.Name() == strconv.Itoa(p.Pid) && len(entries) > 1 {
			continue // a shim's first thread is in its container's rootfs, later on
		}
		if its, err := statIn(filepath.Join(tasks, e.Name(), "root"), root); err == nil && os.SameFile(own, its) {
			return true
		}
	}
	return false
}

// statIn is os.Stat for what a path means to a process whose root folder is root.
func statIn(root, path string) (os.FileInfo, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	return f.Stat()
}

// named reports whether the record of a sandbox names the process as its
// monitor, or may do so: one that cannot be read says nothing against it.
func (d *doctor) named(sandbox string, p state.Process) bool {
	rec, err := d.r.Store.Sandbox(sandbox)
	if err != nil {
		return !errors.Is(err, state.ErrNotExist)
	}
	return rec.Monitor == p
}

// adopted reports whether a process that was started as a spare is the monitor of
// a sandbox: its arguments do not tell which.
func (d *doctor) adopted(p state.Process) bool {
	ids, err := d.r.Store.Sandboxes()
	if err != nil {
		return true // not to be touched
	}
	return slices.ContainsFunc(ids, func(id string) bool { return d.named(id, p) })
}

// isSpare reports whether there is a spare with the id, or may be in a moment,
// or it is being ended.
func (d *doctor) isSpare(id string) bool {
	_, err := d.r.Store.Spare(id)
	_, endedErr := d.r.Store.Spare(state.EndedSpare(id))
	return !errors.Is(err, state.ErrNotExist) || !errors.Is(endedErr, state.ErrNotExist) || d.filling()
}

// filling reports whether somebody makes spares: what looks like an orphan may
// be one of those.
func (d *doctor) filling() bool {
	if !d.folder("") {
		return false
	}
	lock, err := d.r.Store.TryLockSpares()
	if lock == nil || err != nil {
		return true
	}
	lock.Close()
	return false
}

func (p *process) argv0() string {
	if len(p.argv) == 0 {
		return ""
	}
	return p.argv[0]
}

// rootAndID are what spawn puts behind the command.
func rootAndID(argv []string) (root, id string) {
	if len(argv) < 4 {
		return "", ""
	}
	return argv[2], argv[3]
}

// after gives what follows a prefix in the one argument that begins with it, up
// to a comma.
func after(argv []string, prefix string) string {
	for _, a := range argv {
		if v, ok := strings.CutPrefix(a, prefix); ok {
			v, _, _ = strings.Cut(v, ",")
			return v
		}
	}
	return ""
}

// machineName is the name that QEMU's arguments give to its machine: "" for none.
// A comma in it is doubled (QEMU: util/qemu-option.c).
func machineName(argv []string) string {
	const option = "guest="
	i := slices.IndexFunc(argv, func(a string) bool { return strings.HasPrefix(a, option) })
	if i < 1 || argv[i-1] != "-name" {
		return ""
	}
	const comma = "\x00" // is in no argument
	name, _, _ := strings.Cut(strings.ReplaceAll(argv[i][len(option):], ",,", comma), ",")
	return strings.ReplaceAll(name, comma, ",")
}

// readProcesses gives all processes but zombies, by pid.
func readProcesses() (map[int]*process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	all := make(map[int]*process)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		proc, err := state.FindProcess(pid)
		if err != nil || !proc.Alive() {
			continue // it has just ended
		}
		cmdline, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		parent, perr := state.ParentOf(pid)
		if err != nil || perr != nil {
			continue
		}
		p := &process{Process: proc, parent: parent}
		for arg := range bytes.SplitSeq(bytes.TrimSuffix(cmdline, []byte{0}), []byte{0}) {
			p.argv = append(p.argv, string(arg))
		}
		all[pid] = p
	}
	return all, nil
}

// mounts looks for mounts in the sandboxes' folders. The runtime makes none in
// the host's mount namespace.
func (d *doctor) mounts(context.Context) ([]Orphan, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(d.r.Store.Root(), "sandboxes") + "/"
	var found []Orphan
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line) // proc(5)
		if len(f) < 5 || !strings.HasPrefix(f[4], dir) {
			continue
		}
		id, _, _ := strings.Cut(strings.TrimPrefix(f[4], dir), "/")
		path := f[4]
		found = append(found, Orphan{
			Kind: OrphanMount, Name: path, Owner: id, Why: "no mount belongs there",
			fix: func(context.Context) error { return unix.Unmount(path, unix.UMOUNT_NOFOLLOW) },
		})
	}
	slices.Reverse(found) // those on top first
	return found, nil
}

// taps looks for taps that outlive who made them.
func (d *doctor) taps(ctx context.Context) ([]Orphan, error) {
	taps, err := network.StrayTaps(ctx)
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, t := range taps {
		found = append(found, Orphan{
			Kind: OrphanTap, Name: t.Name, Why: "it is persistent, which those of a machine are not",
			fix: t.Remove,
		})
	}
	return found, nil
}

// cgroups looks for cgroups of containers that there are not.
func (d *doctor) cgroups(context.Context) ([]Orphan, error) {
	all, err := cgroup.Owned()
	if err != nil {
		return nil, err
	}
	var found []Orphan
	for _, g := range all {
		root, id := state.Marked(g.Owner)
		if root != d.r.Store.Root() || d.busy(id) {
			continue
		}
		if _, err := d.r.Store.Container(id); err == nil {
			continue // delete removes it
		}
		// A spare's is removed by its monitor, also when it is a sandbox's by now.
		if _, err := d.r.Store.Sandbox(id); err == nil || d.monitors[id].Alive() || d.isSpare(id) {
			continue
		}
		found = append(found, Orphan{
			Kind: OrphanCgroup, Name: g.Dir, Owner: id, Why: "there is no such container",
			fix: func(context.Context) error {
				return d.alone(id, func() error { return os.Remove(g.Dir) }) // rmdir: one with processes stays
			},
		})
	}
	return found, nil
}
