// Package oci reads bundles and translates them for the guest. It runs in the
// command process and makes nothing: it reads config.json, asks the host what
// the sources of bind mounts are, and gives back data.
//
// Load checks a bundle with runc's texts. Bundle.Guest builds the config.json
// of the guest's OCI runtime *new*: only what the table of fields
// carries or maps gets there, so that a field which nobody has thought of
// stays behind. What is left behind although the bundle sets it is reported.
//
// The specification is
// https://github.com/opencontainers/runtime-spec/blob/v1.3.0/config.md and
// config-linux.md beside it; the guest's runtime is crun 1.8 on cgroup v2.
package oci

//go:generate go test -run TestSpecSupport . -update
