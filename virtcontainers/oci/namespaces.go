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

// mapNamespaces makes the guest's namespaces, and what depends on them: id
// mappings and sysctls.
func (t *translation) mapNamespaces(dst, src *specs.Linux) error {
	asked, err := t.readNamespaces(src.Namespaces)
	if err != nil {
		return err
	}
	var shared []string
	for _, kind := range ownNamespaces {
		dst.Namespaces = append(dst.Namespaces, specs.LinuxNamespace{Type: kind})
		if !asked[kind] && kind != specs.CgroupNamespace {
			shared = append(shared, string(kind))
		}
	}
	if len(shared) > 0 {
		t.drop("linux.namespaces", "the host's namespaces cannot be shared; the container has its own: "+strings.Join(shared, ", "))
	}
	if err := t.mapUser(dst, src, asked[specs.UserNamespace]); err != nil {
		return err
	}
	return t.mapSysctl(dst, src.Sysctl, asked[specs.UserNamespace])
}

// readNamespaces checks the bundle's namespaces and says which there are.
func (t *translation) readNamespaces(list []specs.LinuxNamespace) (map[specs.LinuxNamespaceType]bool, error) {
	asked := make(map[specs.LinuxNamespaceType]bool)
	for i, ns := range list {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if asked[ns.Type] {
			return nil, fmt.Errorf("malformed spec file: duplicated ns {%q %q}", ns.Type, ns.Path) // runc's text
		}
		asked[ns.Type] = true
		switch ns.Type {
		case specs.NetworkNamespace:
			continue // the VM's network is made from it
		case specs.MountNamespace:
			if ns.Path != "" {
				return nil, fmt.Errorf("%s.path: a mount namespace of the host cannot be joined", field)
			}
		case specs.TimeNamespace:
			return nil, fmt.Errorf("%s: %s", field, noTimeNamespace)
		case specs.UserNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace:
		default:
			return nil, fmt.Errorf("namespace {%q %q} does not exist", ns.Type, ns.Path) // runc's text
		}
		if ns.Path != "" {
			t.drop(field+".path", "a namespace of the host cannot be joined; the container has its own")
		}
	}
	return asked, nil
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
