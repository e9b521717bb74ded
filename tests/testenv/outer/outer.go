// Package outer is for tests that need a machine of their own around them: it
// boots an emulated one of the guest image's kernel with a root file system that
// the test makes, and gives what is said inside, line by line.
//
//	VC_GUEST_DIR  folder of the guest image, for its kernel; build/guest if unset
//	VC_RUNTIME    runtime that is taken along; bin/vc-runtime if unset
//	VC_KEEP       keeps the machine's folder, for a look at its console
package outer

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// Machine is an outer machine that is being made. What goes wrong ends the test.
type Machine struct {
	testing.TB
	Dir     string // of the machine's files
	Root    string // of the module
	Guest   string // folder of the guest image
	modules string // folder of the unpacked kernel package
}

// New is a machine without anything in it yet. The test is skipped where there
// is no kernel to boot.
func New(t testing.TB) *Machine {
	t.Helper()
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{TB: t, Root: root, Guest: cmp.Or(os.Getenv("VC_GUEST_DIR"), filepath.Join(root, "build/guest"))}
	if _, err := os.Stat(m.kernel()); err != nil {
		t.Skipf("NOT RUN: %v: `make guest` makes the kernel that this boots", err)
	}
	if os.Getenv("VC_KEEP") == "" {
		m.Dir = t.TempDir()
		return m
	}
	m.Dir, err = os.MkdirTemp("", "vc-outer-")
	m.Must(err)
	t.Log("keeping", m.Dir)
	return m
}

func (m *Machine) kernel() string { return filepath.Join(m.Guest, "vmlinux") }

// Runtime is the path of the runtime under test.
func (m *Machine) Runtime() string {
	return cmp.Or(os.Getenv("VC_RUNTIME"), filepath.Join(m.Root, "bin/vc-runtime"))
}

// Must ends the test on an error.
func (m *Machine) Must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

// Tool runs a program of the host in a folder, and gives its output.
func (m *Machine) Tool(dir, name string, args ...string) string {
	m.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		m.Fatalf("%s (`hack/deps test` installs it): %v: %s", cmd, err, stderr.String())
	}
	return string(out)
}

// Folders makes empty folders in a tree.
func (m *Machine) Folders(tree string, names ...string) {
	m.Helper()
	for _, name := range names {
		m.Must(os.MkdirAll(filepath.Join(tree, name), 0o755))
	}
}

// Write makes a file that can be executed.
func (m *Machine) Write(path, text string) {
	m.Helper()
	m.Must(os.MkdirAll(filepath.Dir(path), 0o755))
	m.Must(os.WriteFile(path, []byte(text), 0o755))
}

// Copy copies a file, following links.
func (m *Machine) Copy(from, to string) {
	m.Helper()
	in, err := os.Open(from)
	m.Must(err)
	defer in.Close()
	st, err := in.Stat()
	m.Must(err)
	m.Must(os.MkdirAll(filepath.Dir(to), 0o755))
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, st.Mode().Perm())
	m.Must(err)
	_, err = io.Copy(out, in)
	m.Must(errors.Join(err, out.Close()))
}

// CopyPrograms copies programs into a tree, to the paths that they have here,
// with the libraries that they are linked with.
func (m *Machine) CopyPrograms(tree string, programs ...string) {
	m.Helper()
	for _, p := range programs {
		m.Copy(p, filepath.Join(tree, p))
		for _, lib := range regexp.MustCompile(`(?m)(?:=> |^\s)(/\S+) \(`).FindAllStringSubmatch(m.Tool("", "ldd", p), -1) {
			m.Copy(lib[1], filepath.Join(tree, lib[1]))
		}
	}
}

// Busybox puts busybox, with the applets that scripts use, into a tree.
func (m *Machine) Busybox(tree string, applets ...string) {
	m.Helper()
	path, err := exec.LookPath("busybox")
	m.Must(err)
	m.Copy(path, filepath.Join(tree, "bin/busybox"))
	for _, a := range applets {
		m.Must(os.Symlink("busybox", filepath.Join(tree, "bin", a)))
	}
}

// DiskModules make an ext4 of a virtio-blk disk.
func DiskModules() []string {
	return []string{
		"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk",
		"crc32c_generic", "jbd2", "mbcache", "crc16", "ext4",
	}
}

// Modules puts kernel modules into the folder modules of a tree, and gives the
// lines of a script that load them in this order.
func (m *Machine) Modules(tree string, names ...string) string {
	m.Helper()
	var load strings.Builder
	for _, name := range names {
		m.Copy(m.module(name), filepath.Join(tree, "modules", name+".ko"))
		fmt.Fprintf(&load, "insmod /modules/%s.ko\n", name)
	}
	return load.String()
}

// module finds a module of the kernel package that the guest image was made of.
func (m *Machine) module(name string) string {
	m.Helper()
	if m.modules == "" {
		debs, err := filepath.Glob(filepath.Join(m.Root, "build/cache/fetched/kernel/*.deb"))
		if err != nil || len(debs) != 1 {
			m.Fatalf("kernel package of the guest image: %q, %v: run `make guest`", debs, err)
		}
		m.modules = filepath.Join(m.Dir, "kernel")
		m.Tool("", "dpkg-deb", "-x", debs[0], m.modules)
	}
	found := strings.Fields(m.Tool("", "find", filepath.Join(m.modules, "lib/modules"), "-name", name+".ko"))
	if len(found) != 1 {
		m.Fatalf("module %s: found %q", name, found)
	}
	return found[0]
}

// Pack makes an initrd of a tree, beside it, and gives its path.
func (m *Machine) Pack(tree string) string {
	m.Helper()
	path := tree + ".initrd"
	m.Tool(tree, "sh", "-c", `find . | cpio --quiet -o -H newc >"$1"`, "sh", path)
	return path
}

// Hardware is what a machine has.
type Hardware struct {
	CPUs      int // 1 if 0
	MemoryMiB int
	Initrd    string
	Append    string        // further parameters of the kernel
	Args      []string      // further ones of QEMU: disks
	Limit     time.Duration // how long it may live
}

// SaidPort is where what is said inside has to be written to.
const SaidPort = "/dev/ttyS1"

// Boot runs the machine to its end, and gives the lines that were said inside.
// Each is handed to said as it comes, if that is not nil. A machine that fails, or
// says nothing, fails the test, with the end of its console.
func (m *Machine) Boot(t testing.TB, h Hardware, said func(line string)) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), h.Limit)
	defer cancel()
	console := filepath.Join(m.Dir, "console")
	// One thread for all CPUs: QEMU 7.2 with a thread for each hangs when a kernel
	// patches its code.
	args := []string{"-M", "q35", "-accel", "tcg,thread=single,tb-size=512", "-cpu", "max,-erms,-fsrm",
		"-smp", strconv.Itoa(max(h.CPUs, 1)), "-m", strconv.Itoa(h.MemoryMiB),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel(), "-initrd", h.Initrd,
		"-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests mitigations=off " + h.Append,
		"-serial", "file:" + console, "-serial", "stdio"}
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append(args, h.Args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	m.Must(err)
	m.Must(cmd.Start())
	var lines []string
	for scan := bufio.NewScanner(out); scan.Scan(); {
		line := strings.TrimRight(scan.Text(), "\r")
		if lines = append(lines, line); said != nil {
			said(line)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the outer machine: %v: %s", errors.Join(err, context.Cause(ctx)), stderr.String())
	}
	if t.Failed() || len(lines) == 0 {
		text, err := os.ReadFile(console)
		t.Errorf("the outer machine's console (%v):\n%s", err, text[max(0, len(text)-4000):])
	}
	return lines
}
