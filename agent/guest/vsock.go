package guest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// Groups of modules: the sockets, and the driver of the device.
const (
	vsockSocketModules = "vsock-sockets"
	vsockModules       = "vsock"
)

// vsockDriver is the folder of the driver, if the kernel has it built in.
const vsockDriver = "/sys/bus/virtio/drivers/vmw_vsock_virtio_transport"

// Vsock is the guest's side of the vsock device. There is one in a guest; its
// methods are not for use by several goroutines.
type Vsock struct {
	Modules *Modules

	listener *vsock.Listener // nil before Prepare
	used     bool
}

// HasVsock reports whether the host has given this machine a vsock device that
// it would like to use (api.VsockArg).
func HasVsock() bool { return told(api.VsockArg) }

// Prepare does what takes a moment of Listen, and what a machine that is saved
// as a template need not leave to its clones. From then on nobody can make a
// vsock socket, this program included.
func (v *Vsock) Prepare() error {
	if v.listener != nil {
		return nil
	}
	if err := v.Modules.Load(vsockSocketModules); err != nil {
		return err
	}
	// Any CID: the address of this machine is the host's affair.
	l, err := vsock.ListenContextID(unix.VMADDR_CID_ANY, 0, nil)
	if err != nil {
		return fmt.Errorf("listen on vsock: %w", err)
	}
	if err := banVsock(); err != nil {
		return errors.Join(err, l.Close())
	}
	v.listener = l
	return nil
}

// Listen listens on a vsock port that the kernel has chosen. The driver meets
// the device only now, or once more: it finds the address (CID) of this very
// machine then, and not that of the template that it was cloned from. It works
// once.
func (v *Vsock) Listen() (*VsockListener, error) {
	if v.used {
		return nil, errors.New("listen on vsock: it was done before, and nobody can make another socket")
	}
	if err := v.Prepare(); err != nil {
		return nil, err
	}
	find := func() error { return v.Modules.Load(vsockModules) }
	if v.Modules.builtIn(vsockModules) {
		find = func() error { return rebind(vsockDriver) }
	}
	if err := find(); err != nil {
		return nil, err
	}
	v.used = true
	return &VsockListener{v.listener}, nil
}

// rebind takes a driver's virtio devices from it and gives them back, so that
// it looks at them anew (Linux: drivers/base/bus.c, bind and unbind).
func rebind(driver string) error {
	devices, err := filepath.Glob(filepath.Join(driver, "virtio*"))
	if err != nil {
		return err
	}
	for _, device := range devices {
		for _, file := range []string{"unbind", "bind"} {
			if err := os.WriteFile(filepath.Join(driver, file), []byte(filepath.Base(device)), 0); err != nil {
				return fmt.Errorf("rebind %s: %w", filepath.Base(device), err)
			}
		}
	}
	return nil
}

// VsockListener accepts the host's vsock connections.
type VsockListener struct{ *vsock.Listener }

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
