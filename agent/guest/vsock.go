package guest

import (
	"fmt"
	"net"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// vsockModules is the group of modules with the driver of the vsock device.
const vsockModules = "vsock"

// VsockListener accepts the host's vsock connections.
type VsockListener struct{ *vsock.Listener }

// ListenVsock listens on a vsock port that the kernel chooses. The driver is
// loaded only now: it finds the address (CID) of this very machine then, and
// not that of the template that it was cloned from.
func ListenVsock(modules *Modules) (*VsockListener, error) {
	if err := modules.Load(vsockModules); err != nil {
		return nil, err
	}
	// Any CID: the address of this machine is the host's affair.
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock: %w", err)
	}
	return &VsockListener{l}, nil
}

// Port is that which the kernel has chosen.
func (l *VsockListener) Port() uint32 { return l.Addr().(*vsock.Addr).Port }

// Accept gives the next connection of the host. Others, of processes in the
// guest, are closed.
func (l *VsockListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if peer, ok := conn.RemoteAddr().(*vsock.Addr); ok && peer.ContextID == vsock.Host {
			return conn, nil
		}
		conn.Close()
	}
}
