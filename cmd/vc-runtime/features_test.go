package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
)

func TestFeatures(t *testing.T) {
	out := executeAs(t, 1000, &fake{}, "features")
	if out.code != 0 || out.stderr != "" { // CRI-O reads both as one
		t.Fatalf("%+v", out)
	}
	var got features.Features
	if err := json.Unmarshal([]byte(out.stdout), &got); err != nil {
		t.Fatal(err)
	}
	if got.OCIVersionMin != "1.0.0" || got.OCIVersionMax != specs.Version || len(got.Hooks) != 6 {
		t.Errorf("%+v", got)
	}
	for _, list := range [][]string{got.MountOptions, got.Linux.Namespaces, got.Linux.Seccomp.Actions, got.Linux.Seccomp.Archs} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("not sorted, or with duplicates: %q", list)
		}
	}
	if got.Annotations["org.opencontainers.runc.checkpoint.enabled"] != "false" {
		t.Error("checkpoint is announced")
	}
}

// TestFeaturesAreTaken: the translation of bundles takes all that is announced.
func TestFeaturesAreTaken(t *testing.T) {
	spec := oci.DefaultSpec()
	source := t.TempDir()
	linux := spec.Linux
	caps := supportedCapabilities
	spec.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: caps, Effective: caps, Inheritable: caps, Permitted: caps, Ambient: caps,
	}
	linux.Namespaces = nil
	for _, ns := range supported().Linux.Namespaces {
		linux.Namespaces = append(linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(ns)})
	}
	linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
	linux.GIDMappings = linux.UIDMappings
	seccomp := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for _, arch := range supportedArchs {
		seccomp.Architectures = append(seccomp.Architectures, specs.Arch(arch))
	}
	for _, flag := range supportedSeccompFlags {
		seccomp.Flags = append(seccomp.Flags, specs.LinuxSeccompFlag(flag))
	}
	for _, action := range supportedActions {
		call := specs.LinuxSyscall{Names: []string{"acct"}, Action: specs.LinuxSeccompAction(action)}
		for _, op := range supportedOperators {
			call.Args = append(call.Args, specs.LinuxSeccompArg{Op: specs.LinuxSeccompOperator(op)})
		}
		seccomp.Syscalls = append(seccomp.Syscalls, call)
	}
	linux.Seccomp = seccomp
	for _, option := range supportedMountOptions {
		mount := specs.Mount{Destination: "/m-" + option, Source: source, Options: []string{"bind", option}}
		if option == "tmpcopyup" {
			mount.Type, mount.Source, mount.Options = "tmpfs", "tmpfs", []string{option}
		}
		spec.Mounts = append(spec.Mounts, mount)
	}
	guest, err := translate(t, spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range guest.Dropped {
		if strings.Contains(d.Reason, "shared is slave") {
			continue // taken, within the guest
		}
		t.Errorf("%s is announced and dropped: %s", d.Field, d.Reason)
	}
}

// TestFeaturesAreComplete: what runc knows and is not announced is not taken.
func TestFeaturesAreComplete(t *testing.T) {
	for _, option := range []string{
		"acl", "noacl", "iversion", "noiversion", "lazytime", "nolazytime", "loud", "silent", "remount",
		"symfollow", "nosymfollow", "rsymfollow", "rnosymfollow", "idmap", "ridmap", "tmpcopyup",
	} {
		spec := oci.DefaultSpec()
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/m", Type: "tmpfs", Source: "tmpfs", Options: []string{option}})
		guest, err := translate(t, spec)
		if err == nil && len(guest.Dropped) == 0 && !slices.Contains(supportedMountOptions, option) {
			t.Errorf("the mount option %s is taken and not announced", option)
		}
	}
	spec := oci.DefaultSpec()
	spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActNotify}
	if _, err := translate(t, spec); err == nil {
		t.Error("SCMP_ACT_NOTIFY is taken and not announced")
	}
}

// translate makes a bundle of spec and gives what the guest gets.
func translate(t *testing.T, spec *specs.Spec) (*oci.Guest, error) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, spec.Root.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, specConfig), data, 0o600); err != nil {
		t.Fatal(err)
	}
	bundle, err := oci.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return bundle.Guest(oci.GuestOptions{ID: "features"})
}
