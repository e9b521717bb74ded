package oci

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Role is what a container is to its sandbox.
type Role int

const (
	// Single is a container with a sandbox of its own.
	Single Role = iota
	// Sandbox is the container that stands for a pod: stopping it stops the
	// sandbox.
	Sandbox
	// Member is a container of a pod. Its sandbox may never have been
	// created: some callers leave the pod's own container out.
	Member
	// Companion is a container of a pod that shares something only where the
	// pod has a container of its own: it is a Member if that exists, and Single
	// otherwise. Podman names the pod of a container either way.
	Companion
)

func (r Role) String() string {
	switch r {
	case Single:
		return "single"
	case Sandbox:
		return "sandbox"
	case Member:
		return "member"
	case Companion:
		return "companion"
	}
	return fmt.Sprintf("Role(%d)", int(r))
}

// ErrHostNetwork is what NetworkNamespace gives for a container that asks for
// the host's network.
var ErrHostNetwork = errors.New("the host's network cannot be used from a virtual machine: " +
	"linux.namespaces needs a network namespace")

// podKeys are the annotations in which a caller names a container's pod.
type podKeys struct {
	caller string
	// role holds "sandbox" (or podSandbox's value) or "container"; "" where
	// the caller does not say.
	role       string
	podSandbox string
	sandbox    string
}

var podAnnotations = []podKeys{
	{"CRI-O", "io.kubernetes.cri-o.ContainerType", "sandbox", "io.kubernetes.cri-o.SandboxID"},
	{"containerd", "io.kubernetes.cri.container-type", "sandbox", "io.kubernetes.cri.sandbox-id"},
	{"cri-dockerd", "io.kubernetes.docker.type", "podsandbox", "io.kubernetes.sandbox.id"},
}

// idPattern is runc's pattern for container ids.
var idPattern = regexp.MustCompile(`^[\w+.-]+$`)

// SandboxOf reads from a container's annotations which sandbox it belongs to;
// id is the container's own. Podman uses CRI-O's sandbox key without its type.
// Whether a Companion is a Member is for the caller to find out.
// Two callers' annotations that contradict each other are an error.
func SandboxOf(annotations map[string]string, id string) (sandboxID string, role Role, err error) {
	if err := checkID(id); err != nil {
		return "", Single, err
	}
	sandboxID, role = id, Single
	var from string
	for _, keys := range podAnnotations {
		sid, r, err := keys.read(annotations, id)
		switch {
		case err != nil:
			return "", Single, fmt.Errorf("annotations of %s: %w", keys.caller, err)
		case r == Single:
			continue
		case role != Single && (sid != sandboxID || r != role && r != Companion && role != Companion):
			return "", Single, fmt.Errorf("annotations of %s and %s name different pods", from, keys.caller)
		}
		if role != Single && r == Companion {
			continue // the other one says more
		}
		sandboxID, role, from = sid, r, keys.caller
	}
	return sandboxID, role, nil
}

func (k podKeys) read(annotations map[string]string, id string) (string, Role, error) {
	kind, sandbox := annotations[k.role], annotations[k.sandbox]
	if sandbox != "" {
		if err := checkID(sandbox); err != nil {
			return "", Single, fmt.Errorf("%s: %w", k.sandbox, err)
		}
	}
	switch kind {
	case "":
		switch sandbox {
		case "":
			return id, Single, nil
		case id:
			return id, Sandbox, nil
		}
		return sandbox, Companion, nil
	case k.podSandbox:
		if sandbox != "" && sandbox != id {
			return "", Single, fmt.Errorf("%s is %q, but %s is not the container's own id", k.role, kind, k.sandbox)
		}
		return id, Sandbox, nil
	case "container":
		if sandbox == "" || sandbox == id {
			return "", Single, fmt.Errorf("%s is %q, but %s names no sandbox", k.role, kind, k.sandbox)
		}
		return sandbox, Member, nil
	}
	return "", Single, fmt.Errorf("%s: unknown value %q", k.role, kind)
}

func checkID(id string) error {
	if !idPattern.MatchString(id) || id == "." || id == ".." {
		return fmt.Errorf("invalid container ID format: %q", id)
	}
	return nil
}

// JoinedPIDNamespace gives the path of the pid namespace that the container is
// to join, "" where there is none.
func JoinedPIDNamespace(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.PIDNamespace {
			return ns.Path
		}
	}
	return ""
}

// NetworkNamespace gives the network namespace that the VM's network comes
// from: a path, or fresh where the runtime is to make one. A container in the
// host's namespace gives ErrHostNetwork.
func NetworkNamespace(spec *specs.Spec) (path string, fresh bool, err error) {
	if spec.Linux == nil {
		return "", false, ErrHostNetwork
	}
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type != specs.NetworkNamespace {
			continue
		}
		if ns.Path == "" {
			return "", true, nil
		}
		if !filepath.IsAbs(ns.Path) {
			return "", false, fmt.Errorf("linux.namespaces[%d].path: %q is not an absolute path", i, ns.Path)
		}
		return ns.Path, false, nil
	}
	return "", false, ErrHostNetwork
}
