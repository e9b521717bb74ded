// Package cgroup places the processes of a container or sandbox in a cgroup
// of the host: the monitor, QEMU, the shims and file servers. Callers read
// their statistics, and a pod's limits bind them there. It is used by the
// command; what it does is kept in the container's record (Load).
//
// It knows the drivers of runc, cgroupfs and systemd, and hosts with cgroup v1,
// v2, or both (hybrid).
//
// What a cgroup has of the container's limits is what only the host can do
// (Limits): CPU shares and sets of CPUs, where the VM is the container's own,
// and block I/O. Memory limits, CPU quotas and numbers of processes are
// enforced in the guest: on the host they would also have to hold the guest's
// kernel, QEMU and the file server, and the host's OOM killer would end the
// whole VM where the guest's ends one process. LimitMemory bounds all of that
// together, where a user wants it. There is no limit for the number of host
// processes: QEMU and the file server cannot start any (seccomp), whatever the guest
// does. Limits that a caller has set on a cgroup further up, such as a pod's,
// hold as for any process; Kubernetes accounts for the VM by a RuntimeClass's
// overhead.podFixed.
package cgroup

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// ErrPath is a cgroupsPath that the driver cannot use.
var ErrPath = errors.New("invalid cgroups path")

// Placement is where a cgroup belongs, as config.json says it.
type Placement struct {
	// Path is that of the cgroup in each hierarchy. A relative one is below
	// the caller's own cgroup, or with cgroup v2 beside it, since a cgroup
	// that has processes cannot give controllers to those below it.
	Path string
	// Slice and Unit are the systemd units that make up Path, with the
	// systemd driver.
	Slice, Unit string
}

// The systemd driver's defaults.
const (
	defaultSlice  = "system.slice"
	defaultPrefix = "vc-runtime"
)

// Place interprets linux.cgroupsPath (runtime-spec, config-linux.md) as runc
// does. For the cgroupfs driver it is a path, for the systemd driver
// "slice:prefix:name", where the slice may be empty; without one the cgroup is
// named after the container's id.
//
// Errors: ErrPath.
func Place(specPath, id string, systemd bool) (Placement, error) {
	if systemd {
		return placeUnit(specPath, id)
	}
	if specPath == "" {
		return Placement{Path: id}, nil
	}
	// Rooted, so that ".." leads nowhere.
	p := path.Clean("/" + specPath)
	if p == "/" || strings.ContainsAny(specPath, "\x00\n") {
		return Placement{}, pathError(specPath, "a path below the root")
	}
	if !path.IsAbs(specPath) {
		p = p[1:]
	}
	return Placement{Path: p}, nil
}

// PlaceSandbox gives where a sandbox belongs that has no container as
// long-lived as itself: beside the container with the given specPath. Callers
// know nothing of it, so that it is named after the runtime.
//
// Errors: ErrPath.
func PlaceSandbox(specPath, sandbox string, systemd bool) (Placement, error) {
	if systemd {
		slice, _, _ := strings.Cut(specPath, ":")
		return placeUnit(slice+":"+defaultPrefix+":"+sandbox, sandbox)
	}
	name := defaultPrefix + "-" + sandbox
	p, err := Place(specPath, name, false)
	if err != nil {
		return Placement{}, err
	}
	p.Path = path.Join(path.Dir(p.Path), name)
	return p, nil
}

func placeUnit(specPath, id string) (Placement, error) {
	const expected = `"slice:prefix:name" for the systemd driver`
	parts := []string{"", defaultPrefix, id}
	if specPath != "" {
		parts = strings.Split(specPath, ":")
	}
	if len(parts) != 3 {
		return Placement{}, pathError(specPath, expected)
	}
	p := Placement{Slice: parts[0], Unit: parts[1] + "-" + parts[2] + ".scope"}
	if p.Slice == "" {
		p.Slice = defaultSlice
	}
	switch {
	case parts[2] == "" || strings.HasSuffix(parts[2], ".slice"):
		return Placement{}, pathError(specPath, expected+", with the name of a scope")
	case !isUnitName(p.Unit):
		return Placement{}, pathError(specPath, expected+", with letters, digits and any of :-_.\\@ up to 255 in all")
	}
	dir, ok := expandSlice(p.Slice)
	if !ok {
		return Placement{}, pathError(specPath, expected+`, with a slice such as "machine.slice"`)
	}
	p.Path = path.Join(dir, p.Unit)
	return p, nil
}

func pathError(value, expected string) error {
	return fmt.Errorf("%w: linux.cgroupsPath: %q, expected %s", ErrPath, value, expected)
}

// expandSlice gives the path of a slice: "a-b.slice" is in "a.slice"
// (systemd.slice(5)).
func expandSlice(slice string) (string, bool) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || !isUnitName(slice) {
		return "", false
	}
	if name == "-" {
		return "/", true
	}
	dir, prefix := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", false
		}
		dir = path.Join(dir, prefix+part+".slice")
		prefix += part + "-"
	}
	return dir, true
}

// isUnitName reports whether systemd takes the name (systemd.unit(5)).
func isUnitName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(`:-_.\@`, r):
		default:
			return false
		}
	}
	return true
}
