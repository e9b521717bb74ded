// Package qemu runs virtual machines in QEMU: a q35 with a PVH kernel,
// everything that is not the guest's memory attached through inherited
// sockets. It runs in the monitor, which QEMU does not survive.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qmp"
	"github.com/vc-runtime/vc-runtime/trace"
)

const (
	consoleLimit = 64 << 10 // bytes of the guest's console that are kept
	stderrLimit  = 4 << 10  // bytes of QEMU's own messages that are kept
)

// lastWords is how long a QEMU that has closed its control socket may take
// to end by itself, so that its exit status tells why.
const lastWords = time.Second

// Driver is the hypervisor.Driver for QEMU. The zero Driver is ready.
type Driver struct{}

// Start is hypervisor.Driver. It must be able to make a network namespace
// (CAP_SYS_ADMIN).
func (Driver) Start(ctx context.Context, cfg hypervisor.Config) (hypervisor.VM, error) {
	if err := check(cfg); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if cfg.Template != nil {
		return clone(ctx, cfg)
	}
	v, err := begin(ctx, cfg, nil)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// begin starts QEMU up to the point where it answers.
func begin(ctx context.Context, cfg hypervisor.Config, memory *guestMemory) (*vm, error) {
	span := trace.Begin(ctx, trace.Spawn, "start QEMU")
	v, control, err := spawn(cfg, memory)
	span.End()
	if err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	span = trace.Begin(ctx, trace.Phase, "QEMU until it answers")
	v.qmp, err = qmp.New(ctx, control)
	span.End()
	if err != nil {
		return nil, v.stillborn(ctx, err)
	}
	return v, nil
}

// stillborn ends a QEMU that did not shake hands, and says why it did not.
func (v *vm) stillborn(ctx context.Context, cause error) error {
	if errors.Is(cause, io.EOF) || errors.Is(cause, unix.ECONNRESET) {
		select {
		case <-v.done:
		case <-ctx.Done():
		case <-time.After(lastWords):
		}
	}
	select {
	case <-v.done:
		cause = v.err
	default:
		if said := v.lastMessages(); said != "" {
			cause = fmt.Errorf("%w: QEMU said: %s", cause, said)
		}
	}
	killErr := v.Kill()
	v.channel.Close()
	if v.cid != 0 {
		cause = blameVsock(cause)
	}
	return errors.Join(fmt.Errorf("start QEMU: %w", cause), killErr)
}

// ends are the host's ends of QEMU's sockets.
type ends struct {
	qmp, console, channel *net.UnixConn
}

func (e *ends) close() {
	for _, c := range []*net.UnixConn{e.qmp, e.console, e.channel} {
		if c != nil {
			c.Close()
		}
	}
}

// sockets makes the three socket pairs. The files are QEMU's ends, in the
// order of the Layout.
func sockets() (host ends, guest []*os.File, err error) {
	for _, end := range []**net.UnixConn{&host.qmp, &host.console, &host.channel} {
		conn, file, err := socketpair()
		if err != nil {
			host.close()
			closeAll(guest)
			return ends{}, nil, err
		}
		*end = conn
		guest = append(guest, file)
	}
	return host, guest, nil
}

func socketpair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	mine := os.NewFile(uintptr(fds[0]), "socketpair")
	theirs := os.NewFile(uintptr(fds[1]), "socketpair")
	conn, err := net.FileConn(mine) // takes a copy
	mine.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// FirmwareOf finds qboot, which comes with QEMU and saves 0.1 s of SeaBIOS
// under TCG; "" when this QEMU has none.
func FirmwareOf(binary string) string {
	for _, path := range []string{
		filepath.Join(filepath.Dir(binary), "../share/qemu/qboot.rom"),
		"/usr/share/qemu/qboot.rom",
	} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}
