package sandbox

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/hypertest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// A guest whose clock is too fast does not become a template, and is ended.
func TestTemplateOfFastClock(t *testing.T) {
	b, d := fakeMachines(t, config.ChannelSerial)
	d.Agent = func(port net.Conn) {
		api.WriteLine(port, api.Hello{Protocol: api.ProtocolVersion, ImageID: "image", UptimeMs: time.Hour.Milliseconds()})
	}
	dir := t.TempDir()
	_, err := b.makeTemplate(t.Context(), hypervisor.Template{Memory: filepath.Join(dir, "memory"), State: filepath.Join(dir, "state")})
	if err == nil || !strings.Contains(err.Error(), "clock is too fast: 1h0m0s") {
		t.Errorf("error: %v", err)
	}
	for _, vm := range d.VMs() {
		checkEnded(t, vm)
	}
}

func checkEnded(t *testing.T, vm *hypertest.VM) {
	t.Helper()
	select {
	case <-vm.Done():
	case <-time.After(10 * time.Second):
		t.Error("a machine is left")
	}
}
