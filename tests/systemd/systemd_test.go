// Package systemd tests the host's cgroups on machines that systemd has set up:
// with cgroup v2, with v1, and with both. It boots an emulated machine of Debian's
// kernel and this host's systemd for each, whose only service runs the tests of
// package cgroup. They use cgroups by the file system and by systemd's scopes.
//
//	VC_SYSTEMD    "all" boots all three (make test-systemd), otherwise it is the one with both
//	VC_GUEST_DIR  folder of the guest image, for its kernel; build/guest if unset
package systemd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv/outer"
)

// bootLimit is for one machine, on a host that is busy.
const bootLimit = 15 * time.Minute

// hosts are the kinds of cgroups, by how systemd is told on the kernel's command
// line (systemd 252, kernel-command-line(7)).
var hosts = []struct {
	name, flags string
	always      bool
	mounts      string // a mount that the tests must have seen
}{
	{"both", "systemd.unified_cgroup_hierarchy=0", true, "cgroup2 /sys/fs/cgroup/unified"},
	{"v1", "systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1", false, "cgroup /sys/fs/cgroup/systemd"},
	{"v2", "systemd.unified_cgroup_hierarchy=1", false, "cgroup2 /sys/fs/cgroup"},
}

func TestCgroupsOfSystemd(t *testing.T) {
	m := newMachine(t)
	initrd := makeInitrd(m)
	for _, h := range hosts {
		if !h.always && os.Getenv("VC_SYSTEMD") != "all" {
			continue
		}
		t.Run(h.name, func(t *testing.T) {
			lines := m.Boot(t, outer.Hardware{MemoryMiB: 768, Initrd: initrd, Append: h.flags, Limit: bootLimit}, nil)
			text := strings.Join(lines, "\n") + "\n"
			t.Log(text)
			for _, want := range []string{h.mounts + "\n", "--- PASS: TestRealSystemd", "--- PASS: TestLifeOfACgroup", "\n" + endMark + "0\n"} {
				if !strings.Contains(text, want) {
					t.Errorf("no %q inside", want)
				}
			}
		})
	}
}

// endMark begins the last line from inside, with the exit code of the tests.
const endMark = "the tests inside ended with "

// script is the only service.
const script = `#!/bin/sh
export PATH=/bin TMPDIR=/run HOME=/
while read -r _ place kind _; do case $kind in cgroup*) echo $kind $place;; esac; done </proc/mounts
/cgroup.test -test.v -test.timeout=10m
echo "` + endMark + `$?"
poweroff -f
`

// units are all that systemd is to do.
var units = map[string]string{
	"default.target": "[Unit]\nWants=test.service\n",
	"test.service": "[Unit]\nDefaultDependencies=no\nAfter=-.mount\n[Service]\nType=simple\nExecStart=/bin/run-tests\n" +
		"StandardOutput=file:" + outer.SaidPort + "\nStandardError=inherit\n",
}

// newMachine is the machine, or none where systemd is missing.
func newMachine(t *testing.T) *outer.Machine {
	m := outer.New(t)
	if _, err := os.Stat(systemdPath); err != nil {
		t.Skipf("SKIPPED: %v: `hack/deps test` installs systemd, which this boots", err)
	}
	return m
}

// systemdPath is the same in the machine.
const systemdPath = "/lib/systemd/systemd"

// makeInitrd makes the machine's root file system: systemd with its libraries,
// a shell, and the tests.
func makeInitrd(m *outer.Machine) string {
	tree := filepath.Join(m.Dir, "tree")
	m.Folders(tree, "dev", "proc", "sys", "run", "tmp", "var", "usr/lib", "etc/systemd/system")
	m.CopyPrograms(tree, systemdPath)
	m.Busybox(tree, "sh", "sleep", "poweroff", "cat", "true")
	for name, text := range units {
		m.Must(os.WriteFile(filepath.Join(tree, "etc/systemd/system", name), []byte(text), 0o644))
	}
	m.Must(os.WriteFile(filepath.Join(tree, "etc/os-release"), []byte("ID=test\n"), 0o644))
	m.Write(filepath.Join(tree, "bin/run-tests"), script)
	m.Tool(m.Root, "go", "test", "-c", "-o", filepath.Join(tree, "cgroup.test"), "./virtcontainers/cgroup")
	m.Must(os.Symlink(systemdPath, filepath.Join(tree, "init")))
	return m.Pack(tree)
}
