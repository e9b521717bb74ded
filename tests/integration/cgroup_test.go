package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestCgroup looks where the processes of a container live: engines read that
// cgroup. The suite sees to it that none is left.
func TestCgroup(t *testing.T) {
	for _, host := range []struct {
		name string
		// mounts makes /sys/fs/cgroup what it is on such a host; "" leaves this one's.
		mounts string
		// ours tells whether the hierarchy of a line of /proc/PID/cgroup is there.
		ours func(line string) bool
	}{
		{"this host", "", func(line string) bool { return strings.Contains(line, ":memory:") }},
		{"v1", onlyV1, func(line string) bool { return strings.Contains(line, ":pids:") || strings.Contains(line, ":freezer:") }},
		{"v2", onlyV2, func(line string) bool { return strings.HasPrefix(line, "0::") }},
	} {
		t.Run(host.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			if host.mounts != "" {
				e = onHost(e, host.mounts)
			}
			livesInCgroup(e, host.ours)
		})
	}
}

// Hosts with the one hierarchy of cgroup v2, whatever controllers that has here,
// and without it.
const (
	onlyV2 = "mount -n -t cgroup2 cgroup2 /sys/fs/cgroup"
	onlyV1 = "mount -n -t tmpfs tmpfs /sys/fs/cgroup && for c in pids freezer; do mkdir /sys/fs/cgroup/$c && mount -n -t cgroup -o $c cgroup /sys/fs/cgroup/$c || exit 9; done"
)

// onHost gives surroundings in which each command of the runtime has a mount namespace
// of its own, with other mounts at /sys/fs/cgroup. Nothing of the real ones is
// covered, or reached by what takes the test's folders away.
func onHost(e *testenv.Env, mounts string) *testenv.Env {
	e.Helper()
	folders(e, "bin")
	wrapper := e.Write("bin/vc-runtime", `#!/bin/sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec unshare --mount --propagation slave sh -c '
umount -n -R /sys/fs/cgroup || exit 9
`+mounts+`|| exit 9
exec `+e.Runtime+` "$@"' sh "$@"
`)
	if err := os.Chmod(wrapper, 0o755); err != nil {
		e.Fatal(err)
	}
	other := *e
	other.Suite = e.Beside(wrapper)
	return &other
}

// livesInCgroup makes a container, and looks at its processes.
func livesInCgroup(e *testenv.Env, ours func(line string) bool) {
	path := "/" + e.ID()
	c := e.Started(nil, func(s *specs.Spec) { s.Linux.CgroupsPath = path })
	pids := e.SandboxPids(c.ID)
	for what, pid := range map[string]int{"shim": c.Pid, "monitor": pids.Monitor, "VM": pids.VM} {
		in := e.Read(fmt.Sprintf("/proc/%d/cgroup", pid))
		for line := range strings.Lines(in) {
			if ours(line) && !strings.HasSuffix(strings.TrimSpace(line), path) {
				e.Errorf("the %s is in %s, want %s", what, strings.TrimSpace(line), path)
			}
		}
		if !strings.Contains(in, path) {
			e.Errorf("the %s is not in %s:\n%s", what, path, in)
		}
	}
	// By which doctor knows whose the machine is.
	if name := "\x00-name\x00guest=" + filepath.Join(e.Root, c.ID) + "\x00"; !strings.Contains(e.Read(fmt.Sprintf("/proc/%d/cmdline", pids.VM)), name) {
		e.Errorf("the machine is not called %s/%s", e.Root, c.ID)
	}
	e.OK("kill", c.ID, "KILL")
	c.Wait(sluggish)
	c.Delete()
}

// TestBadCgroupsPath: what the systemd driver cannot read is refused, with the
// field's name.
func TestBadCgroupsPath(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	b := e.Bundle(func(s *specs.Spec) { s.Linux.CgroupsPath = "not/three:parts" })
	res := e.Do("--systemd-cgroup", "create", "--bundle", b.Dir, e.ID())
	e.FailedWith(res, 1, "linux.cgroupsPath")
}
