// Package machine is for tests of virtual machines without a runtime around
// them: the configuration of a small guest, and a file server for it.
//
//	VC_GUEST_DIR  folder of the guest image; build/guest of this tree if unset
//	VC_QEMU       path of QEMU; found in PATH if unset
//	VC_VIRTIOFSD  path of the file server; Debian's if unset
package machine

import (
	"cmp"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// Config is the configuration of an emulated guest with one CPU of three, 256 MiB
// of 1024 and three slots, and its image. The test is skipped where it cannot be
// made.
func Config(t testing.TB) (hypervisor.Config, *guestimage.Manifest) {
	t.Helper()
	cfg, image, err := Find()
	if err != nil {
		t.Skipf("NOT RUN: needs a virtual machine: %v", err)
	}
	return cfg, image
}

// Find is Config for what is no test.
func Find() (hypervisor.Config, *guestimage.Manifest, error) {
	var none hypervisor.Config
	root, err := testenv.ModuleRoot()
	if err != nil {
		return none, nil, err
	}
	image, err := guestimage.Load(cmp.Or(os.Getenv("VC_GUEST_DIR"), filepath.Join(root, "build/guest")))
	if err != nil {
		return none, nil, err
	}
	binary, err := exec.LookPath(cmp.Or(os.Getenv("VC_QEMU"), "qemu-system-x86_64"))
	if err != nil {
		return none, nil, err
	}
	kernel, err := filepath.Abs(image.KernelPath())
	if err != nil {
		return none, nil, err
	}
	initrd, err := filepath.Abs(image.InitrdPath())
	if err != nil {
		return none, nil, err
	}
	return hypervisor.Config{
		Name: state.Mark(root, "test"), Binary: binary, Accel: hypervisor.AccelTCG,
		CPUs: 1, MaxCPUs: 3, MemoryMiB: 256, MaxMemoryMiB: 1024,
		Kernel: kernel, Initrd: initrd, HotplugSlots: 3,
	}, image, nil
}

// ServeFiles starts a file server for a folder, which ends with the test, and
// gives a connection to it.
func ServeFiles(t testing.TB, folder string) *os.File {
	t.Helper()
	address := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"}
	l, err := net.ListenUnix("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listening, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Close()
	server := exec.Command(cmp.Or(os.Getenv("VC_VIRTIOFSD"), "/usr/lib/qemu/virtiofsd"), "--fd=3", "-f",
		"-o", "source="+folder, "--rlimit-nofile=0", "-o", "log_level=err")
	server.ExtraFiles = []*os.File{listening}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	conn, err := net.DialUnix("unix", nil, address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	socket, err := conn.File()
	if err != nil {
		t.Fatal(err)
	}
	return socket
}
