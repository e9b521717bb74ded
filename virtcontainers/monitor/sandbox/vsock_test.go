package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/hypertest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

func TestChooseChannel(t *testing.T) {
	none := fmt.Errorf("%w: open /dev/vhost-vsock: %w", hypervisor.ErrVsock, fs.ErrNotExist)
	broken := fmt.Errorf("%w: open /dev/vhost-vsock: %w", hypervisor.ErrVsock, unix.EPERM)
	for _, test := range []struct {
		channel config.Channel
		check   error
		vsock   bool
		notices int
		want    error
	}{
		{config.ChannelAuto, nil, true, 0, nil},
		{config.ChannelAuto, none, false, 0, nil},
		{config.ChannelAuto, broken, false, 1, nil},
		{config.ChannelVsock, nil, true, 0, nil},
		{config.ChannelVsock, none, false, 0, fs.ErrNotExist},
		{config.ChannelVsock, broken, false, 0, unix.EPERM},
		{config.ChannelSerial, nil, false, 0, nil},
		{config.ChannelSerial, broken, false, 0, nil},
	} {
		var vm hypervisor.Config
		notices, err := chooseChannel(test.channel, &vm, func() error { return test.check })
		if !errors.Is(err, test.want) || (err != nil) != (test.want != nil) || len(notices) != test.notices || vm.Vsock != test.vsock {
			t.Errorf("%s, %v: vsock %v, notices %q, error %v", test.channel, test.check, vm.Vsock, notices, err)
		}
		if err != nil && !strings.Contains(err.Error(), `hypervisor.channel = "vsock": `) {
			t.Errorf("%v: does not name key and value", err)
		}
	}
}

// fakeMachines is a booting whose machines' agents say hello, offer a vsock
// port if asked, and start a session in which nothing is answered.
func fakeMachines(t *testing.T, channel config.Channel) (*booting, *hypertest.Driver) {
	d := &hypertest.Driver{Agent: func(port net.Conn) {
		api.WriteLine(port, api.Hello{Protocol: api.ProtocolVersion, ImageID: "image"})
		var w api.Welcome
		api.ReadLine(port, &w)
		if w.Vsock != nil {
			api.WriteLine(port, api.VsockOffer{Port: 1})
			api.ReadLine(port, &api.CarrierChoice{})
		}
		yamux.Server(port, nil)
	}}
	b := &booting{
		driver: d, imageID: "image", started: func(hypervisor.VM) error { return nil },
		hv:      &config.Hypervisor{Channel: channel, Template: config.TemplateOff, BootTimeout: config.Seconds(60)},
		machine: hypervisor.Config{Vsock: true},
	}
	t.Cleanup(func() {
		for _, vm := range d.VMs() {
			vm.Kill()
			vm.Channel().Close()
		}
	})
	return b, d
}

// noDevice is a hypervisor that cannot make vsock devices.
type noDevice struct{ hypervisor.Driver }

func (d noDevice) Start(ctx context.Context, cfg hypervisor.Config) (hypervisor.VM, error) {
	if cfg.Vsock {
		return nil, fmt.Errorf("start: %w", hypervisor.ErrVsock)
	}
	return d.Driver.Start(ctx, cfg)
}

// Where vsock does not work the session goes over the port, and the user is
// told once; where it must work that is an error, and nothing is left.
func TestBootWithoutVsock(t *testing.T) {
	for name, device := range map[string]bool{"no device": false, "nobody listens": true} {
		t.Run(name, func(t *testing.T) {
			b, d := fakeMachines(t, config.ChannelAuto)
			if !device {
				b.driver = noDevice{d}
			}
			m, err := b.bootAnyhow(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer m.Guest.Close()
			if c := m.Guest.(*client.Client); c.Carrier() != api.CarrierSerial {
				t.Errorf("the session goes over %s", c.Carrier())
			}
			if len(m.Notices) != 1 || !strings.Contains(m.Notices[0], "virtio-serial") {
				t.Errorf("notices %q", m.Notices)
			}

			b, d = fakeMachines(t, config.ChannelVsock)
			if !device {
				b.driver = noDevice{d}
			}
			if _, err := b.bootAnyhow(t.Context()); err == nil || !strings.Contains(err.Error(), "vsock") {
				t.Errorf("required: %v", err)
			}
			for _, vm := range d.VMs() {
				checkEnded(t, vm)
			}
		})
	}
}

func TestBootWithVsock(t *testing.T) {
	b, d := fakeMachines(t, config.ChannelAuto)
	secrets := make(chan []byte, 1)
	d.Vsock = func(uint32) (net.Conn, error) {
		host, guest := net.Pipe()
		go func() {
			var s api.VsockSecret
			api.ReadLine(guest, &s)
			api.WriteLine(guest, api.VsockSecret{Secret: <-secrets})
			yamux.Server(guest, nil)
		}()
		return host, nil
	}
	d.Agent = func(port net.Conn) {
		api.WriteLine(port, api.Hello{Protocol: api.ProtocolVersion, ImageID: "image"})
		var w api.Welcome
		api.ReadLine(port, &w)
		secrets <- w.Vsock.Agent
		api.WriteLine(port, api.VsockOffer{Port: 1})
		api.ReadLine(port, &api.CarrierChoice{})
	}
	m, err := b.bootAnyhow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Guest.Close()
	if c := m.Guest.(*client.Client); c.Carrier() != api.CarrierVsock || len(m.Notices) != 0 {
		t.Errorf("the session goes over %s, notices %q", c.Carrier(), m.Notices)
	}
}
