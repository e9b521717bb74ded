package oci

import (
	"fmt"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxMounts bounds the mounts of a container; Linux bounds those of a mount
// namespace at 100000 (fs.mount-max).
const maxMounts = 4096

// A filesystem is one that the guest mounts itself.
type filesystem struct {
	kind   string          // the guest's type
	source string          // what /proc/mounts shows
	data   map[string]bool // options beside the flags, by the part before "="
}

// filesystems are the mount types that are no bind mounts, by the bundle's
// type. The guest's kernel judges the values of their options.
var filesystems = map[string]filesystem{
	"proc":    {kind: "proc", source: "proc", data: set("hidepid", "gid", "subset")},
	"sysfs":   {kind: "sysfs", source: "sysfs"},
	"mqueue":  {kind: "mqueue", source: "mqueue"},
	"cgroup":  {kind: "cgroup", source: "cgroup", data: set("nsdelegate", "memory_localevents", "memory_recursiveprot")},
	"cgroup2": {kind: "cgroup", source: "cgroup", data: set("nsdelegate", "memory_localevents", "memory_recursiveprot")},
	"devpts":  {kind: "devpts", source: "devpts", data: set("newinstance", "ptmxmode", "mode", "uid", "gid", "max")},
	"tmpfs": {kind: "tmpfs", source: "tmpfs", data: set("size", "nr_blocks", "nr_inodes", "mode", "uid", "gid",
		"huge", "mpol", "inode32", "inode64", "noswap", "tmpcopyup")},
}

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, name := range names {
		m[name] = true
	}
	return m
}

// procMounts are the files below /proc that may be mounted over: runc's list.
var procMounts = set("/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps",
	"/proc/uptime", "/proc/loadavg", "/proc/slabinfo", "/proc/net/dev",
	"/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled")

// mapMounts makes the guest's mounts, in the bundle's order, and the binds.
func (t *translation) mapMounts(mounts []specs.Mount) error {
	if len(mounts) > maxMounts {
		return fmt.Errorf("mounts: %d are more than %d", len(mounts), maxMounts)
	}
	for i := range mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		dst, err := carry(t.report, &mounts[i], field)
		if err != nil {
			return err
		}
		if dst.Destination, err = t.destination(mounts[i].Destination, field); err != nil {
			return err
		}
		keep, err := t.mapMount(dst, &mounts[i], field)
		if err != nil {
			return err
		}
		if keep {
			t.spec.Mounts = append(t.spec.Mounts, *dst)
		}
	}
	return nil
}

// destination gives where a mount goes in the container. A relative one is
// taken from the root, as runc does.
func (t *translation) destination(dest, field string) (string, error) {
	if !path.IsAbs(dest) {
		t.drop(field+".destination", "not absolute: taken from the container's root")
	}
	if dest = path.Join("/", dest); dest == "/" {
		return "", fmt.Errorf("%s.destination: the root itself", field)
	}
	return dest, nil
}

// mapMount fills in dst but for its destination; keep is false for a mount
// that is left out.
func (t *translation) mapMount(dst, src *specs.Mount, field string) (keep bool, err error) {
	if isBind(src) {
		return t.mapBind(dst, src, field)
	}
	fsys, ok := filesystems[src.Type]
	if !ok {
		return false, fmt.Errorf("%s.type %q: the guest mounts only bind, cgroup, devpts, mqueue, proc, sysfs and tmpfs", field, src.Type)
	}
	if err := checkProc(dst.Destination, fsys.kind); err != nil {
		return false, err
	}
	opts, err := t.readOptions(src.Options, field, fsys)
	if err != nil {
		return false, err
	}
	dst.Type, dst.Source, dst.Options = fsys.kind, fsys.source, opts.guest
	if fsys.kind == "tmpfs" && src.Source == "shm" {
		dst.Source = "shm" // as the bundle's /dev/shm is shown everywhere
	}
	return true, nil
}

// isBind follows runc: the options decide, whatever the type says.
func isBind(m *specs.Mount) bool {
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return m.Type == "bind"
}

// checkProc keeps mounts off /proc, with runc's text: what is mounted there
// can mislead whoever writes the container's security labels.
func checkProc(dest, kind string) error {
	if dest == "/proc" && kind != "proc" || strings.HasPrefix(dest, "/proc/") && !procMounts[dest] {
		return fmt.Errorf("%q cannot be mounted because it is inside /proc", dest)
	}
	return nil
}

// mapBind makes a bind mount from the share, or what stands for it in the
// guest where the source is a part of the host's kernel.
func (t *translation) mapBind(dst, src *specs.Mount, field string) (keep bool, err error) {
	from := src.Source
	if !filepath.IsAbs(from) {
		from = filepath.Join(t.bundle.Dir, from)
	}
	what, err := t.files.inspect(from)
	if err != nil {
		return false, fmt.Errorf("unable to start container process: error during container init: error mounting %q to rootfs at %q: %w", src.Source, dst.Destination, err) // runc's text
	}
	kind, err := classify(what, dst.Destination)
	if err != nil {
		return false, fmt.Errorf("%s.source %q: %w", field, src.Source, err)
	}
	if err := checkProc(dst.Destination, kind.guest); err != nil {
		return false, err
	}
	opts, err := t.readOptions(src.Options, field, filesystem{kind: "bind"})
	if err != nil {
		return false, err
	}
	switch {
	case kind.device:
		return false, t.addDevice(what.device(dst.Destination), field)
	case kind.dropped != "":
		t.drop(field, kind.dropped)
		return false, nil
	case kind.guest == "tmpfs":
		t.mapShm(dst, what, opts, field)
		return true, nil
	case kind.guest != "":
		t.drop(field+".source", "the guest's own "+kind.guest+" is mounted")
		dst.Type, dst.Source, dst.Options = kind.guest, kind.guest, opts.guest
		return true, nil
	}
	t.addBind(dst, what, opts, field)
	return true, nil
}

// mapShm makes shared memory in the guest of the folder that a caller has made
// for it on the host: the container's own, or its pod's.
func (t *translation) mapShm(dst *specs.Mount, what source, opts mountOptions, field string) {
	owner := "the container's own"
	dst.Type, dst.Source = "tmpfs", "shm"
	if t.podIPC {
		owner, dst.Source = "the pod's", podShm
	}
	t.drop(field+".source", "/dev/shm is a file system of the guest, "+owner)
	dst.Options = append(opts.guest, "mode=1777", "size="+strconv.FormatInt(what.size, 10))
}

func (t *translation) addBind(dst *specs.Mount, what source, opts mountOptions, field string) {
	if !what.mode.IsDir() && !what.mode.IsRegular() {
		t.drop(field+".source", "a socket or pipe of the host is there, but leads nowhere from the guest")
	}
	if opts.propagation == Shared {
		t.drop(field+".options", "mounts made in the guest do not reach the host: shared is slave there")
	}
	flag := "bind"
	if opts.recursive {
		flag = "rbind"
	}
	dst.Type = "bind"
	dst.Source = "m/" + strconv.Itoa(len(t.binds))
	dst.Options = append([]string{flag}, opts.guest...)
	t.binds = append(t.binds, Bind{
		Source: what.path, Destination: dst.Destination, File: !what.mode.IsDir(),
		Recursive: opts.recursive, ReadOnly: opts.readOnly, RecursiveReadOnly: opts.recursiveReadOnly,
		Propagation: opts.propagation,
	})
}
