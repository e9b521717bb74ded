package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
)

// TestVsockThatNobodyReaches: the agent loads the driver and listens on vsock;
// where the host does not get through, the session stays on the port. That one
// goes over vsock is tested in tests/vsock.
func TestVsockThatNobodyReaches(t *testing.T) {
	for name, kernelArgs := range map[string][]string{
		"boots":         nil,
		"as a template": {api.TemplateArg, api.VsockArg},
	} {
		t.Run(name, func(t *testing.T) {
			var offered uint32
			m := bootWith(t, 1, &client.Vsock{Dial: func(_ context.Context, port uint32) (net.Conn, error) {
				offered = port
				return nil, syscall.ENODEV
			}}, kernelArgs...)
			if offered == 0 || m.Carrier() != api.CarrierSerial || !errors.Is(m.NoVsock(), syscall.ENODEV) {
				t.Errorf("port %d, the session goes over %s: %v", offered, m.Carrier(), m.NoVsock())
			}
			// A container cannot make a vsock socket in any way: it could reach
			// what listens on the host.
			want := fmt.Sprintf("socket %[1]d socketcall %[1]d io_uring %[1]d\n", syscall.EAFNOSUPPORT)
			if got := m.tries(t); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// tries runs a container that tries to make vsock sockets, and gives what it
// says.
func (m *machine) tries(t *testing.T) string {
	t.Helper()
	program := filepath.Join(m.shares[0], "rootfs/bin/vsock")
	if out, err := exec.Command("gcc", "-static", "-o", program, "testdata/vsock.c").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	m.create(t, "c", outputs, spec([]string{"/bin/vsock"}))
	defer m.remove(t, "c")
	out := m.open(t, api.KindStdout, "c", "")
	m.start(t, "c")
	b, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	m.wantExit(t, "c", "", 0)
	return string(b)
}
