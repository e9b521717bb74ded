package oci

import (
	"errors"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestSandboxOf(t *testing.T) {
	const (
		crioType, crioID   = "io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"
		ctrdType, ctrdID   = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
		dshimType, dshimID = "io.kubernetes.docker.type", "io.kubernetes.sandbox.id"
	)
	for _, tt := range []struct {
		name        string
		annotations map[string]string
		sandbox     string
		role        Role
		fails       bool
	}{
		{"docker", nil, "c1", Single, false},
		{"podman alone", map[string]string{"io.container.manager": "libpod"}, "c1", Single, false},
		{"podman infra", map[string]string{crioID: "c1"}, "c1", Sandbox, false},
		{"podman in a pod", map[string]string{crioID: "p1"}, "p1", Companion, false},
		{"CRI-O sandbox", map[string]string{crioType: "sandbox", crioID: "c1"}, "c1", Sandbox, false},
		{"CRI-O container", map[string]string{crioType: "container", crioID: "p1"}, "p1", Member, false},
		{"containerd sandbox", map[string]string{ctrdType: "sandbox", ctrdID: "c1"}, "c1", Sandbox, false},
		{"containerd container", map[string]string{ctrdType: "container", ctrdID: "p1"}, "p1", Member, false},
		{"cri-dockerd sandbox", map[string]string{dshimType: "podsandbox"}, "c1", Sandbox, false},
		{"cri-dockerd container", map[string]string{dshimType: "container", dshimID: "p1"}, "p1", Member, false},
		{"two that agree", map[string]string{ctrdType: "container", ctrdID: "p1", crioID: "p1"}, "p1", Member, false},

		{"container without sandbox", map[string]string{ctrdType: "container"}, "", Single, true},
		{"container of itself", map[string]string{ctrdType: "container", ctrdID: "c1"}, "", Single, true},
		{"sandbox of another", map[string]string{crioType: "sandbox", crioID: "p1"}, "", Single, true},
		{"unknown type", map[string]string{crioType: "pod", crioID: "c1"}, "", Single, true},
		{"two that do not", map[string]string{ctrdType: "container", ctrdID: "p1", crioID: "p2"}, "", Single, true},
		{"hostile id", map[string]string{crioID: "../other"}, "", Single, true},
		{"dots", map[string]string{crioID: ".."}, "", Single, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sandbox, role, err := SandboxOf(tt.annotations, "c1")
			if sandbox != tt.sandbox || role != tt.role || (err != nil) != tt.fails {
				t.Errorf("got %q, %v, %v", sandbox, role, err)
			}
		})
	}
	for _, id := range []string{"", ".", "..", "a/b", "a b", "a\n", "a\x00"} {
		if _, _, err := SandboxOf(nil, id); err == nil {
			t.Errorf("id %q is accepted", id)
		}
	}
}

func TestNetworkNamespace(t *testing.T) {
	with := func(ns ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: ns}}
	}
	pid := specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/x"}
	for _, spec := range []*specs.Spec{{}, with(), with(pid)} {
		if _, _, err := NetworkNamespace(spec); !errors.Is(err, ErrHostNetwork) {
			t.Errorf("got %v, want ErrHostNetwork", err)
		}
	}
	path, fresh, err := NetworkNamespace(with(pid, specs.LinuxNamespace{Type: specs.NetworkNamespace}))
	if path != "" || !fresh || err != nil {
		t.Errorf("fresh: %q, %v, %v", path, fresh, err)
	}
	path, fresh, err = NetworkNamespace(with(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/netns/a"}))
	if path != "/run/netns/a" || fresh || err != nil {
		t.Errorf("path: %q, %v, %v", path, fresh, err)
	}
	if _, _, err = NetworkNamespace(with(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "a"})); err == nil {
		t.Error("a relative path is accepted")
	}
}
