package vmtest

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// TestReconnect: the host goes away and comes back on the same port; the
// containers live on.
func TestReconnect(t *testing.T) {
	m := boot(t, 1)
	m.create(t, "c", outputs, spec(sh("read x", "echo later")))
	for i := range 3 {
		m.Close()
		// The port has no event for "the guest knows": a host that comes
		// back before is taken for the old one.
		time.Sleep(300 * time.Millisecond)
		start := time.Now()
		m.connect(t, nil)
		t.Logf("reconnect: %v", time.Since(start).Round(time.Millisecond))
		m.sleeper(t, fmt.Sprintf("s%d", i))
	}
	out := m.open(t, api.KindStdout, "c", "")
	m.start(t, "c")
	wantOutput(t, out, "later\n")
	m.wantExit(t, "c", "", 0)
}

// TestHotplug: a container's share appears while its creation waits, and can
// be taken away and given to the next one after its removal.
func TestHotplug(t *testing.T) {
	m := boot(t, 0)
	m.shares = append(m.shares, filepath.Join(m.dir, "s0"))
	makeRootfs(t, m.shares[0])
	for i := range 3 {
		sock := filepath.Join(m.dir, fmt.Sprintf("h%d.sock", i))
		startVirtiofsd(t, m.shares[0], sock)
		plugged := make(chan time.Time, 1)
		go func() {
			time.Sleep(200 * time.Millisecond) // the creation waits by then
			start := time.Now()
			m.qmp(t, "",
				fmt.Sprintf(`{"execute":"chardev-add","arguments":{"id":"fs","backend":{"type":"socket","data":{"server":false,"addr":{"type":"unix","data":{"path":%q}}}}}}`, sock),
				`{"execute":"device_add","arguments":{"driver":"vhost-user-fs-pci","id":"fsdev","chardev":"fs","tag":"t0","bus":"rp0"}}`)
			plugged <- start
		}()
		m.create(t, "c", outputs, spec([]string{"echo", "hi"}))
		t.Logf("plug to created: %v", time.Since(<-plugged).Round(time.Millisecond))
		out := m.open(t, api.KindStdout, "c", "")
		m.start(t, "c")
		wantOutput(t, out, "hi\n")
		m.remove(t, "c")
		start := time.Now()
		m.qmp(t, "DEVICE_DELETED", `{"execute":"device_del","arguments":{"id":"fsdev"}}`)
		m.qmp(t, "", `{"execute":"chardev-remove","arguments":{"id":"fs"}}`)
		t.Logf("unplug: %v", time.Since(start).Round(time.Millisecond))
	}
}
