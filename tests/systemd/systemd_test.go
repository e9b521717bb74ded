// Package systemd tests the host's cgroups on machines that systemd has set up:
// with cgroup v2, with v1, and with both. It boots an emulated machine of Debian's
// kernel and this host's systemd for each, whose only service runs the tests of
// package cgroup. They use cgroups by the file system and by systemd's scopes.
//
//	VC_SYSTEMD    "all" boots all three (make test-systemd), otherwise it is the one with both
//	VC_GUEST_DIR  folder of the guest image, for its kernel; build/guest if unset
package systemd

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
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
	m.makeInitrd()
	for _, h := range hosts {
		if !h.always && os.Getenv("VC_SYSTEMD") != "all" {
			continue
		}
		t.Run(h.name, func(t *testing.T) {
			text := strings.Join(m.boot(t, h.flags), "\n")
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
		"StandardOutput=file:/dev/ttyS1\nStandardError=inherit\n",
}

// machine is what is booted.
type machine struct {
	*testing.T
	dir, root, guest string
}

func newMachine(t *testing.T) *machine {
	m := &machine{T: t, dir: t.TempDir()}
	var err error
	m.root, err = filepath.Abs("../..")
	m.must(err)
	if m.guest = os.Getenv("VC_GUEST_DIR"); m.guest == "" {
		m.guest = filepath.Join(m.root, "build/guest")
	}
	if _, err := os.Stat(filepath.Join(m.guest, "vmlinux")); err != nil {
		t.Skipf("SKIPPED: %v: `make guest` makes the kernel that this boots", err)
	}
	if _, err := os.Stat(systemdPath); err != nil {
		t.Skipf("SKIPPED: %v: `hack/deps test` installs systemd, which this boots", err)
	}
	return m
}

func (m *machine) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// tool runs a program of the host and gives its output.
func (m *machine) tool(dir, name string, args ...string) string {
	m.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		m.Fatalf("%s: %v: %s", cmd, err, stderr.String())
	}
	return string(out)
}

// copy copies a file, following links.
func (m *machine) copy(from, to string) {
	m.Helper()
	in, err := os.Open(from)
	m.must(err)
	defer in.Close()
	st, err := in.Stat()
	m.must(err)
	m.must(os.MkdirAll(filepath.Dir(to), 0o755))
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, st.Mode().Perm())
	m.must(err)
	_, err = io.Copy(out, in)
	m.must(errors.Join(err, out.Close()))
}

// systemdPath is the same in the machine.
const systemdPath = "/lib/systemd/systemd"

// makeInitrd makes the machine's root file system: systemd with its libraries,
// a shell, and the tests.
func (m *machine) makeInitrd() {
	tree := filepath.Join(m.dir, "tree")
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "var", "usr/lib", "etc/systemd/system"} {
		m.must(os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	m.copy(systemdPath, filepath.Join(tree, systemdPath))
	for _, lib := range regexp.MustCompile(`(?m)(?:=> |^\s)(/\S+) \(`).FindAllStringSubmatch(m.tool("", "ldd", systemdPath), -1) {
		m.copy(lib[1], filepath.Join(tree, lib[1]))
	}
	busybox, err := exec.LookPath("busybox")
	m.must(err)
	m.copy(busybox, filepath.Join(tree, "bin/busybox"))
	for _, applet := range []string{"sh", "sleep", "poweroff", "cat", "true"} {
		m.must(os.Symlink("busybox", filepath.Join(tree, "bin", applet)))
	}
	for name, text := range units {
		m.must(os.WriteFile(filepath.Join(tree, "etc/systemd/system", name), []byte(text), 0o644))
	}
	m.must(os.WriteFile(filepath.Join(tree, "etc/os-release"), []byte("ID=test\n"), 0o644))
	m.must(os.WriteFile(filepath.Join(tree, "bin/run-tests"), []byte(script), 0o755))
	m.tool(m.root, "go", "test", "-c", "-o", filepath.Join(tree, "cgroup.test"), "./virtcontainers/cgroup")
	m.must(os.Symlink("/lib/systemd/systemd", filepath.Join(tree, "init")))
	m.tool(tree, "sh", "-c", "find . | cpio --quiet -o -H newc >../initrd")
}

// boot gives what the tests inside have said.
func (m *machine) boot(t *testing.T, flags string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), bootLimit)
	defer cancel()
	console := filepath.Join(t.TempDir(), "console")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "768",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(m.guest, "vmlinux"), "-initrd", filepath.Join(m.dir, "initrd"),
		"-append", "console=ttyS0 panic=-1 tsc=reliable no_timer_check cryptomgr.notests mitigations=off "+flags,
		"-serial", "file:"+console, "-serial", "stdio")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	m.must(err)
	m.must(cmd.Start())
	var lines []string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		lines = append(lines, strings.TrimRight(scan.Text(), "\r"))
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the machine: %v: %s", err, stderr.String())
	}
	if t.Failed() || len(lines) == 0 {
		said, err := os.ReadFile(console)
		t.Errorf("the machine's console (%v):\n%s", err, said[max(0, len(said)-4000):])
	}
	return append(lines, "")
}
