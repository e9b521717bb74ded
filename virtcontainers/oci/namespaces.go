package oci

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// guestNetwork is the network namespace that the guest's runtime is in: the
// VM's.
const guestNetwork = "/proc/self/ns/net"

// ownNamespaces are those that every container has of its own in the guest, in
// the order of the guest's specification. The agent lives in the initial ones.
var ownNamespaces = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.MountNamespace, specs.CgroupNamespace,
}

// What the agent finds in the guest by these names, as the path of a namespace
// or the source of a mount.
const (
	podNamespace       = "pod"        // that of the pod's containers
	containerNamespace = "container/" // and an id: that of the container
	podShm             = "pod/shm"    // the pod's shared memory
	notifySource       = "notify"     // the folder of the container's socket for sd_notify(3)
)

// asked is what a bundle says of a kind of namespace.
type asked struct {
	any  bool   // the container is in none of the host's
	path string // of one to join
}

// mapNamespaces makes the guest's namespaces, and what depends on them: id
// mappings and sysctls.
func (t *translation) mapNamespaces(dst, src *specs.Linux) error {
	list, err := t.readNamespaces(src.Namespaces)
	if err != nil {
		return err
	}
	var shared []string
	for _, kind := range ownNamespaces {
		ns := specs.LinuxNamespace{Type: kind}
		switch {
		case (kind == specs.IPCNamespace || kind == specs.UTSNamespace) && t.isPods(list[kind]):
			ns.Path = podNamespace
		case kind == specs.PIDNamespace && t.opts.PIDOf != "":
			ns.Path = containerNamespace + t.opts.PIDOf
		}
		dst.Namespaces = append(dst.Namespaces, ns)
		if !list[kind].any && kind != specs.CgroupNamespace {
			shared = append(shared, string(kind))
		}
		if kind == specs.IPCNamespace {
			t.podIPC = ns.Path != ""
		}
	}
	t.reportNamespaces(src.Namespaces, dst.Namespaces, shared)
	if err := t.mapTime(dst, src, list[specs.TimeNamespace].any); err != nil {
		return err
	}
	if err := t.mapUser(dst, src, list[specs.UserNamespace].any); err != nil {
		return err
	}
	return t.mapSysctl(dst, src.Sysctl, list[specs.UserNamespace].any)
}

// isPods decides whether an IPC or UTS namespace is the pod's. The container
// that stands for the pod makes it, or is given it by its caller; the others
// join it by a path. The host's cannot be had: to the containers of a pod, the
// pod's comes closest to it.
func (t *translation) isPods(ns asked) bool {
	switch t.opts.Role {
	case Sandbox:
		return true
	case Member:
		return ns.path != "" || !ns.any
	}
	return false
}

// reportNamespaces says which of the bundle's wishes are not met.
func (t *translation) reportNamespaces(src, dst []specs.LinuxNamespace, shared []string) {
	met := make(map[specs.LinuxNamespaceType]bool)
	for _, ns := range dst {
		met[ns.Type] = ns.Path != ""
	}
	for i, ns := range src {
		if ns.Path != "" && ns.Type != specs.NetworkNamespace && !met[ns.Type] {
			t.drop(fmt.Sprintf("linux.namespaces[%d].path", i), "a namespace of the host cannot be joined; the container has its own")
		}
	}
	if len(shared) == 0 {
		return
	}
	owner := "container"
	if t.opts.Role != Single {
		owner = "container or its pod"
	}
	t.drop("linux.namespaces", "the host's namespaces cannot be shared; the "+owner+" has its own: "+strings.Join(shared, ", "))
}

// readNamespaces checks the bundle's namespaces and says what it asks for.
func (t *translation) readNamespaces(list []specs.LinuxNamespace) (map[specs.LinuxNamespaceType]asked, error) {
	found := make(map[specs.LinuxNamespaceType]asked)
	for i, ns := range list {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if found[ns.Type].any {
			return nil, fmt.Errorf("malformed spec file: duplicated ns {%q %q}", ns.Type, ns.Path) // runc's text
		}
		found[ns.Type] = asked{any: true, path: ns.Path}
		switch ns.Type {
		case specs.MountNamespace:
			if ns.Path != "" {
				return nil, fmt.Errorf("%s.path: a mount namespace of the host cannot be joined", field)
			}
		case specs.TimeNamespace:
			if ns.Path != "" {
				return nil, fmt.Errorf("%s.path: a time namespace of the host cannot be joined", field)
			}
		case specs.NetworkNamespace: // the VM's network is made from it
		case specs.UserNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace:
		default:
			return nil, fmt.Errorf("namespace {%q %q} does not exist", ns.Type, ns.Path) // runc's text
		}
	}
	return found, nil
}

// clocks are those that a time namespace can set off (time_namespaces(7)).
var clocks = map[string]bool{"monotonic": true, "boottime": true}

// mapTime gives the container a time namespace of its own. The agent makes it
// and takes it out of the specification that the guest's runtime gets.
func (t *translation) mapTime(dst, src *specs.Linux, asked bool) error {
	if !asked && len(src.TimeOffsets) > 0 {
		return errors.New("time namespace offsets specified, but time namespace isn't enabled in the config") // the text of runc 1.2
	}
	for _, clock := range slices.Sorted(maps.Keys(src.TimeOffsets)) {
		field := "linux.timeOffsets." + clock
		if !clocks[clock] {
			return fmt.Errorf("%s: unknown clock, expected boottime or monotonic", field)
		}
		if n := src.TimeOffsets[clock].Nanosecs; n >= 1e9 {
			return fmt.Errorf("%s.nanosecs: %d: expected less than 1000000000", field, n)
		}
	}
	if asked {
		dst.Namespaces = append(dst.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
	}
	return nil
}

func (t *translation) mapUser(dst, src *specs.Linux, asked bool) error {
	if !asked {
		if len(src.UIDMappings)+len(src.GIDMappings) > 0 {
			t.drop("linux.uidMappings", "there is no user namespace")
		}
		dst.UIDMappings, dst.GIDMappings = nil, nil
		return nil
	}
	if len(src.UIDMappings) == 0 {
		//lint:ignore ST1005 runc's text
		return errors.New("User namespaces enabled, but no uid mappings found.")
	}
	if len(src.GIDMappings) == 0 {
		//lint:ignore ST1005 runc's text
		return errors.New("User namespaces enabled, but no gid mappings found.")
	}
	dst.Namespaces = append(dst.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	return nil
}

// ipcSysctls are the sysctls of an IPC namespace beside fs.mqueue.
var ipcSysctls = map[string]bool{
	"kernel.msgmax": true, "kernel.msgmnb": true, "kernel.msgmni": true, "kernel.sem": true,
	"kernel.shmall": true, "kernel.shmmax": true, "kernel.shmmni": true, "kernel.shm_rmid_forced": true,
}

// mapSysctl carries the sysctls of the container's namespaces. crun sets those
// of the network only when the specification has a network namespace: it is
// given the one that it is in. From a user namespace nobody may write them.
func (t *translation) mapSysctl(dst *specs.Linux, sysctls map[string]string, userns bool) error {
	network := false
	for _, key := range slices.Sorted(maps.Keys(sysctls)) {
		if err := t.checkSysctl(key, sysctls[key]); err != nil {
			return err
		}
		if isNetwork := strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "net/"); isNetwork && userns {
			t.drop("linux.sysctl."+key, "the VM's network does not belong to the container's user namespace")
			continue
		} else if isNetwork {
			network = true
		}
		if dst.Sysctl == nil {
			dst.Sysctl = make(map[string]string)
		}
		dst.Sysctl[key] = sysctls[key]
	}
	if network {
		dst.Namespaces = append(dst.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: guestNetwork})
	}
	return nil
}

// checkSysctl refuses, as runc and crun do, what is not per namespace.
func (t *translation) checkSysctl(key, value string) error {
	name := strings.ReplaceAll(key, "/", ".")
	switch {
	case strings.HasPrefix(name, "net."), strings.HasPrefix(name, "fs.mqueue."), ipcSysctls[name]:
		return nil
	case name == "kernel.domainname":
		if t.spec.Domainname == "" || t.spec.Domainname == value {
			return nil
		}
		return fmt.Errorf("sysctl %q conflicts with the OCI field %q", key, "domainname")
	case name == "kernel.hostname":
		return fmt.Errorf("sysctl %q is not allowed as it conflicts with the OCI %q field", key, "hostname") // runc's text
	}
	return fmt.Errorf("sysctl %q is not in a separate kernel namespace", key) // runc's text
}
