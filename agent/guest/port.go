package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const portsDir = "/sys/class/virtio-ports"

// Port is the host's end of the guest channel: a virtio-serial port. It is
// opened once for the life of the agent and carries one session after the
// other.
//
// While nobody is connected on the host's side a Write waits, and a Read gives
// io.EOF: the end of a session, not of the port.
type Port struct {
	f *os.File
}

// OpenPort opens the virtio-serial port with the given name, waiting for the
// kernel to announce it.
func OpenPort(ctx context.Context, name string) (*Port, error) {
	ev, err := listenUevents()
	if err != nil {
		return nil, err
	}
	defer ev.close()
	for {
		dev, err := findPort(portsDir, name)
		if err != nil {
			return nil, err
		}
		if dev != "" {
			// os.OpenFile puts a device that can be polled into the
			// runtime's poller, in non-blocking mode.
			f, err := os.OpenFile(filepath.Join("/dev", dev), os.O_RDWR, 0)
			if err == nil {
				return &Port{f: f}, nil
			}
			if !errors.Is(err, os.ErrNotExist) { // devtmpfs follows sysfs
				return nil, err
			}
		}
		if err := ev.wait(ctx); err != nil {
			return nil, fmt.Errorf("wait for the port %s: %w", name, err)
		}
	}
}

// findPort gives the device name of a port, "" when it is not there (yet).
func findPort(dir, name string) (string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*", "name"))
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err == nil && string(bytes.TrimSpace(b)) == name {
			return filepath.Base(filepath.Dir(path)), nil
		}
	}
	return "", nil
}

// Session gives the port to one session. Close of the session ends its reads
// and writes and leaves the port open for the next one.
func (p *Port) Session() (*PortSession, error) {
	if err := p.f.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("use the port: %w", err)
	}
	return &PortSession{p}, nil
}

// PortSession is a Port as one session sees it.
type PortSession struct{ p *Port }

func (s *PortSession) Read(b []byte) (int, error)  { return s.p.f.Read(b) }
func (s *PortSession) Write(b []byte) (int, error) { return s.p.f.Write(b) }

// Close makes current and later reads and writes of the session fail.
func (s *PortSession) Close() error { return s.p.f.SetDeadline(time.Unix(1, 0)) }
