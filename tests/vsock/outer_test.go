package vsock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
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

// outerLimit is for everything: a single run of a container takes minutes
// where the machine has other things to do.
const outerLimit = 3 * time.Hour

// TestVsock boots the outer machine and has TestInside run there.
func TestVsock(t *testing.T) {
	if os.Getenv(insideVar) != "" {
		t.Skip("NOT RUN: no third machine is booted: this is the outer one, in which TestInside runs")
	}
	if os.Getenv(runVar) == "" {
		t.Skip("NOT RUN: takes many minutes; `make test-vsock` runs it")
	}
	o := newOuter(t)
	o.makeDisk()
	o.makeInitrd()
	code := o.run()
	if code != "0" {
		t.Errorf("inside, the tests ended with %q; the console:\n%s", code, o.console())
	}
}

// outer is the outer machine.
type outer struct {
	*testing.T
	dir     string
	root    string // of the module
	guest   string // folder of the guest image
	modules string // folder of the unpacked kernel modules
}

func newOuter(t *testing.T) *outer {
	o := &outer{T: t, dir: t.TempDir()}
	if os.Getenv("VC_KEEP") != "" {
		o.dir = filepath.Join(os.TempDir(), fmt.Sprintf("vc-vsock-%d", os.Getpid()))
		o.must(os.Mkdir(o.dir, 0o700))
		t.Log("keeping", o.dir)
	}
	var err error
	o.root, err = filepath.Abs("../..")
	o.must(err)
	o.guest = or(os.Getenv("VC_GUEST_DIR"), filepath.Join(o.root, "build/guest"))
	return o
}

func or(value, otherwise string) string {
	if value != "" {
		return value
	}
	return otherwise
}

func (o *outer) must(err error) {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
}

// tool runs a program of the host and gives its output.
func (o *outer) tool(name string, args ...string) string {
	o.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = o.dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		o.Fatalf("%s (`hack/deps test` installs it): %v: %s", cmd, err, stderr.String())
	}
	return string(out)
}

// diskModules are what the initrd loads, to mount the disk; hostModules what
// makes the outer machine a host with vsock and vhost-net. Each in load order.
var (
	diskModules = []string{
		"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk",
		"crc32c_generic", "jbd2", "mbcache", "crc16", "ext4",
	}
	hostModules = []string{
		"vsock", "vmw_vsock_virtio_transport_common", "vhost_iotlb", "vhost", "vhost_vsock",
		"tun", "tap", "vhost_net", "veth", "macvlan", "macvtap", "sch_ingress", "cls_u32", "act_mirred",
	}
)

// module finds a module of the kernel package that the guest image was made of.
func (o *outer) module(name string) string {
	o.Helper()
	if o.modules == "" {
		debs, err := filepath.Glob(filepath.Join(o.root, "build/cache/fetched/kernel/*.deb"))
		if err != nil || len(debs) != 1 {
			o.Fatalf("kernel package of the guest image: %q, %v: run `make guest`", debs, err)
		}
		o.modules = filepath.Join(o.dir, "kernel")
		o.tool("dpkg-deb", "-x", debs[0], o.modules)
	}
	found := strings.Fields(o.tool("find", filepath.Join(o.modules, "lib/modules"), "-name", name+".ko"))
	if len(found) != 1 {
		o.Fatalf("module %s: found %q", name, found)
	}
	return found[0]
}

// copy copies a file, following links.
func (o *outer) copy(from, to string) {
	o.Helper()
	in, err := os.Open(from)
	o.must(err)
	defer in.Close()
	st, err := in.Stat()
	o.must(err)
	o.must(os.MkdirAll(filepath.Dir(to), 0o755))
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, st.Mode().Perm())
	o.must(err)
	_, err = io.Copy(out, in)
	o.must(errors.Join(err, out.Close()))
}

func (o *outer) write(path, text string) {
	o.Helper()
	o.must(os.WriteFile(path, []byte(text), 0o755))
}

// busybox puts busybox, with the applets that scripts use, into a tree.
func (o *outer) busybox(tree string, applets ...string) {
	o.Helper()
	path, err := exec.LookPath("busybox")
	o.must(err)
	o.copy(path, filepath.Join(tree, "bin/busybox"))
	for _, a := range applets {
		o.must(os.Symlink("busybox", filepath.Join(tree, "bin", a)))
	}
}

// makeDisk makes the outer machine's root file system: QEMU and virtiofsd of
// this host with their libraries, vc-runtime, the guest image, this program.
func (o *outer) makeDisk() {
	tree := filepath.Join(o.dir, "disk")
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "var/tmp", "var/cache", "etc", "root"} {
		o.must(os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	qemu, err := exec.LookPath("qemu-system-x86_64")
	o.must(err)
	programs := []string{qemu, "/usr/lib/qemu/virtiofsd"}
	for _, file := range append(programs, o.libraries(programs)...) {
		o.copy(file, filepath.Join(tree, file))
	}
	o.copy(qemu, filepath.Join(tree, "usr/bin/qemu-system-x86_64"))
	for _, pattern := range []string{"/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so", "/usr/share/qemu/*.bin", "/usr/share/qemu/qboot.rom", "/usr/share/seabios/bios-256k.bin"} {
		found, err := filepath.Glob(pattern)
		o.must(err)
		for _, file := range found {
			o.copy(file, filepath.Join(tree, strings.Replace(file, "/usr/share/seabios", "/usr/share/qemu", 1)))
		}
	}
	for _, name := range []string{"vmlinux", "initrd", "manifest.json"} {
		o.copy(filepath.Join(o.guest, name), filepath.Join(tree, guestDir, name))
	}
	o.copy(or(os.Getenv("VC_RUNTIME"), filepath.Join(o.root, "bin/vc-runtime")), filepath.Join(tree, runtimePath))
	self, err := os.Executable()
	o.must(err)
	o.copy(self, filepath.Join(tree, selfPath))
	o.busybox(tree, "sh", "mount", "insmod", "mkdir", "ip", "poweroff", "sync", "cat", "tail", "dmesg")
	o.busybox(filepath.Join(tree, baseRootfs), "sh", "cat", "dd", "echo", "nc", "sleep", "sha256sum", "true")
	for _, d := range []string{"proc", "dev", "sys", "tmp"} {
		o.must(os.MkdirAll(filepath.Join(tree, baseRootfs, d), 0o755))
	}
	var load strings.Builder
	for _, m := range hostModules {
		o.copy(o.module(m), filepath.Join(tree, "modules", m+".ko"))
		fmt.Fprintf(&load, "insmod /modules/%s.ko\n", m)
	}
	o.write(filepath.Join(tree, "init"), "#!/bin/sh\nexport PATH=/bin:/usr/bin HOME=/root\n"+`
mount -t proc proc /proc; mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
mkdir -p /dev/shm /dev/pts; mount -t tmpfs tmpfs /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
`+load.String()+
		insideVar+"=1 "+selfPath+" -test.v -test.run='^TestInside$/"+os.Getenv(runVar)+"' -test.timeout=0 >/dev/ttyS1 2>&1\n"+
		"echo \""+endMark+"$?\" >/dev/ttyS1\nsync; poweroff -f\n")
	o.tool("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, filepath.Join(o.dir, "disk.img"), "1500M")
}

// libraries are what the programs are linked with.
func (o *outer) libraries(programs []string) []string {
	var found []string
	for _, p := range programs {
		for _, m := range regexp.MustCompile(`(?m)(?:=> |^\s)(/\S+) \(`).FindAllStringSubmatch(o.tool("ldd", p), -1) {
			found = append(found, m[1])
		}
	}
	return found
}

// makeInitrd makes what mounts the disk.
func (o *outer) makeInitrd() {
	tree := filepath.Join(o.dir, "initrd")
	for _, d := range []string{"dev", "disk", "modules"} {
		o.must(os.MkdirAll(filepath.Join(tree, d), 0o755))
	}
	o.busybox(tree, "sh", "mount", "insmod", "switch_root", "sleep")
	script := "#!/bin/sh\nexport PATH=/bin\nmount -t devtmpfs dev /dev\n"
	for _, m := range diskModules {
		o.copy(o.module(m), filepath.Join(tree, "modules", m+".ko"))
		script += "insmod /modules/" + m + ".ko\n"
	}
	o.write(filepath.Join(tree, "init"), script+`
until [ -e /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /disk && mount --move /dev /disk/dev && exec switch_root /disk /init
`)
	o.tool("sh", "-c", "cd initrd && find . | cpio --quiet -o -H newc >../initrd.img")
}

// runVar names what is to run: a pattern of the names in TestInside, or "."
// for all.
const runVar = "VC_TEST_VSOCK"

// endMark begins the last line of the tests inside, with their exit code.
const endMark = "the tests inside ended with "

// run runs the outer machine and gives the exit code of the tests in it.
func (o *outer) run() (code string) {
	ctx, cancel := context.WithTimeout(o.Context(), outerLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-M", "q35", "-accel", "tcg,thread=single,tb-size=512", "-cpu", "max,-erms,-fsrm", "-smp", "2", "-m", "2560",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(o.guest, "vmlinux"), "-initrd", filepath.Join(o.dir, "initrd.img"),
		"-append", "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests mitigations=off",
		"-drive", "if=none,id=disk,format=raw,cache=unsafe,file="+filepath.Join(o.dir, "disk.img"), "-device", "virtio-blk-pci,drive=disk",
		"-serial", "file:"+filepath.Join(o.dir, "console"), "-serial", "stdio")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	o.must(err)
	o.must(cmd.Start())
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := strings.TrimRight(lines.Text(), "\r")
		if c, ok := strings.CutPrefix(line, endMark); ok {
			code = c
		}
		o.Log("inside:", line)
	}
	if err := cmd.Wait(); err != nil {
		o.Errorf("the outer machine: %v: %s", err, stderr.String())
	}
	return code
}

// console is the end of what the outer machine's kernel and init had to say.
func (o *outer) console() string {
	b, err := os.ReadFile(filepath.Join(o.dir, "console"))
	o.must(err)
	return string(b[max(0, len(b)-4000):])
}
