package vmtest

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
)

// TestVsockThatNobodyReaches: the agent loads the driver and listens on vsock;
// where the host does not get through, the session stays on the port. That one
// goes over vsock is tested in tests/vsock.
func TestVsockThatNobodyReaches(t *testing.T) {
	var offered uint32
	m := bootWith(t, 1, &client.Vsock{Dial: func(_ context.Context, port uint32) (net.Conn, error) {
		offered = port
		return nil, syscall.ENODEV
	}})
	if offered == 0 || m.Carrier() != api.CarrierSerial || !errors.Is(m.NoVsock(), syscall.ENODEV) {
		t.Errorf("port %d, the session goes over %s: %v", offered, m.Carrier(), m.NoVsock())
	}
	m.create(t, "c", outputs, spec(sh("echo still here")))
	out := m.open(t, api.KindStdout, "c", "")
	m.start(t, "c")
	wantOutput(t, out, "still here\n")
	m.wantExit(t, "c", "", 0)
}
