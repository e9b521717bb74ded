package qemu

import (
	"encoding/json"
	"net"
	"os"
	"testing"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// What QEMU is asked for, for one queue and for more.
func TestNICArguments(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, tt := range []struct {
		taps, vhost    []string
		netdev, device string
	}{
		{
			taps:   []string{"nic1tap0"},
			netdev: `{"type":"tap","id":"nic1","fds":"nic1tap0"}`,
			device: `{"driver":"virtio-net-pci","id":"nic1","bus":"rp3","netdev":"nic1","mac":"02:00:00:00:00:01","romfile":"","status":false}`,
		}, {
			taps: []string{"nic1tap0", "nic1tap1"}, vhost: []string{"nic1vhost0", "nic1vhost1"},
			netdev: `{"type":"tap","id":"nic1","fds":"nic1tap0:nic1tap1","vhost":true,"vhostfds":"nic1vhost0:nic1vhost1"}`,
			device: `{"driver":"virtio-net-pci","id":"nic1","bus":"rp3","netdev":"nic1","mac":"02:00:00:00:00:01","romfile":"","status":false,"mq":true,"vectors":6}`,
		},
	} {
		for want, args := range map[string]any{
			tt.netdev: netdevAdd("nic1", tt.taps, tt.vhost),
			tt.device: nicAdd("nic1", mac, len(tt.taps), 3),
		} {
			if got, err := json.Marshal(args); string(got) != want || err != nil {
				t.Errorf("%s, %v\nwant %s", got, err, want)
			}
		}
	}
}

func TestPlugNICRefuses(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	files := []*os.File{os.Stdin, os.Stdin}
	for name, nic := range map[string]hypervisor.NIC{
		"no tap":     {MAC: mac},
		"no address": {Taps: files},
		"vhost":      {Taps: files, Vhost: files[:1], MAC: mac},
	} {
		v := &vm{slots: make([]slot, 1)}
		if _, err := v.PlugNIC(t.Context(), nic); err == nil || v.slots[0] != (slot{}) {
			t.Errorf("%s: %v, slot taken: %v", name, err, v.slots[0])
		}
	}
}
