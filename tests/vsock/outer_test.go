package vsock

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv/outer"
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
	m := outer.New(t)
	disk := makeDisk(m)
	code := ""
	m.Boot(t, outer.Hardware{
		CPUs: 2, MemoryMiB: 2560, Initrd: makeInitrd(m), Limit: outerLimit,
		Args: []string{"-drive", "if=none,id=disk,format=raw,cache=unsafe,file=" + disk, "-device", "virtio-blk-pci,drive=disk"},
	}, func(line string) {
		if c, ok := strings.CutPrefix(line, endMark); ok {
			code = c
		}
		t.Log("inside:", line)
	})
	if code != "0" {
		t.Errorf("inside, the tests ended with %q", code)
	}
}

// hostModules make the outer machine a host with vsock and vhost-net, in load
// order.
var hostModules = []string{
	"vsock", "vmw_vsock_virtio_transport_common", "vhost_iotlb", "vhost", "vhost_vsock",
	"tun", "tap", "vhost_net", "veth", "macvlan", "macvtap", "sch_ingress", "cls_u32", "act_mirred",
}

// makeDisk makes the outer machine's root file system: QEMU and virtiofsd of
// this host with their libraries, vc-runtime, the guest image, this program.
func makeDisk(m *outer.Machine) (path string) {
	tree := filepath.Join(m.Dir, "disk")
	m.Folders(tree, "dev", "proc", "sys", "run", "tmp", "var/tmp", "var/cache", "etc", "root")
	qemu := strings.TrimSpace(m.Tool("", "which", "qemu-system-x86_64"))
	m.CopyPrograms(tree, qemu, "/usr/lib/qemu/virtiofsd")
	m.Copy(qemu, filepath.Join(tree, "usr/bin/qemu-system-x86_64"))
	for _, pattern := range []string{"/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so", "/usr/share/qemu/*.bin", "/usr/share/qemu/qboot.rom", "/usr/share/seabios/bios-256k.bin"} {
		found, err := filepath.Glob(pattern)
		m.Must(err)
		for _, file := range found {
			m.Copy(file, filepath.Join(tree, strings.Replace(file, "/usr/share/seabios", "/usr/share/qemu", 1)))
		}
	}
	for _, name := range []string{"vmlinux", "initrd", "manifest.json"} {
		m.Copy(filepath.Join(m.Guest, name), filepath.Join(tree, guestDir, name))
	}
	m.Copy(m.Runtime(), filepath.Join(tree, runtimePath))
	self, err := os.Executable()
	m.Must(err)
	m.Copy(self, filepath.Join(tree, selfPath))
	m.Busybox(tree, "sh", "mount", "insmod", "mkdir", "ip", "poweroff", "sync", "cat", "tail", "dmesg")
	m.Busybox(filepath.Join(tree, baseRootfs), "sh", "cat", "dd", "echo", "nc", "sleep", "sha256sum", "true")
	m.Folders(filepath.Join(tree, baseRootfs), "proc", "dev", "sys", "tmp")
	m.Write(filepath.Join(tree, "init"), "#!/bin/sh\nexport PATH=/bin:/usr/bin HOME=/root\n"+`
mount -t proc proc /proc; mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp
mkdir -p /dev/shm /dev/pts; mount -t tmpfs tmpfs /dev/shm; mount -t devpts devpts /dev/pts
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
`+m.Modules(tree, hostModules...)+
		insideVar+"=1 "+selfPath+" -test.v -test.run='^TestInside$/"+os.Getenv(runVar)+"' -test.timeout=0 >"+outer.SaidPort+" 2>&1\n"+
		"echo \""+endMark+"$?\" >"+outer.SaidPort+"\nsync; poweroff -f\n")
	path = filepath.Join(m.Dir, "disk.img")
	m.Tool("", "mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", tree, path, "1500M")
	return path
}

// makeInitrd makes what mounts the disk.
func makeInitrd(m *outer.Machine) (path string) {
	tree := filepath.Join(m.Dir, "initrd")
	m.Folders(tree, "dev", "disk")
	m.Busybox(tree, "sh", "mount", "insmod", "switch_root", "sleep")
	m.Write(filepath.Join(tree, "init"), "#!/bin/sh\nexport PATH=/bin\nmount -t devtmpfs dev /dev\n"+m.Modules(tree, outer.DiskModules()...)+`
until [ -e /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /disk && mount --move /dev /disk/dev && exec switch_root /disk /init
`)
	return m.Pack(tree)
}

// runVar names what is to run: a pattern of the names in TestInside, or "."
// for all.
const runVar = "VC_TEST_VSOCK"

// endMark begins the last line of the tests inside, with their exit code.
const endMark = "the tests inside ended with "
