package hypervisor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
)

// The agent of a clone listens with the socket that it has made in the
// template, and loads the driver of the device then. This host need not have
// vsock: the rest is in tests/vsock.
func TestCloneListensOnVsock(t *testing.T) {
	cfg := machine(t)
	dir := t.TempDir()
	files := hypervisor.Template{Memory: filepath.Join(dir, "memory"), State: filepath.Join(dir, "state")}
	hello := saveTemplate(t, cfg, files)

	cfg.Template = &files
	vm, err := qemu.Driver{}.Start(limit(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	var offered uint32
	begun := time.Now()
	guest, err := client.Dial(limit(t, time.Minute), vm.Channel(), client.Options{
		ImageID: hello.ImageID, Hello: hello,
		Vsock: &client.Vsock{Dial: func(_ context.Context, port uint32) (net.Conn, error) {
			offered = port
			return nil, unix.ENODEV
		}},
	})
	if err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, vm.Console())
	}
	defer guest.Close()
	t.Logf("welcome to session: %v", time.Since(begun).Round(time.Millisecond))
	if offered == 0 || guest.Carrier() != api.CarrierSerial || !errors.Is(guest.NoVsock(), unix.ENODEV) {
		t.Errorf("port %d, the session goes over %s: %v", offered, guest.Carrier(), guest.NoVsock())
	}
	if _, err := guest.ListProcesses(limit(t, time.Minute), &api.ContainerRequest{Container: "none"}); !errors.Is(err, unix.ESRCH) {
		t.Errorf("a call: %v", err)
	}
}

// saveTemplate boots a machine whose clones are to use vsock, and saves it.
func saveTemplate(t *testing.T, cfg hypervisor.Config, files hypervisor.Template) *api.Hello {
	t.Helper()
	for _, path := range []string{files.Memory, files.State} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cfg.MemoryFile = files.Memory
	cfg.KernelArgs = []string{api.TemplateArg, api.VsockArg}
	vm, err := qemu.Driver{}.Start(limit(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Channel().Close()
	defer vm.Kill()
	if err := vm.Channel().SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	var hello api.Hello
	if err := api.ReadLine(vm.Channel(), &hello); err != nil {
		t.Fatalf("%v\nconsole:\n%s", err, vm.Console())
	}
	state, err := os.OpenFile(files.State, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	if err := vm.(hypervisor.Saver).Save(limit(t, time.Minute), state); err != nil {
		t.Fatal(err)
	}
	return &hello
}
