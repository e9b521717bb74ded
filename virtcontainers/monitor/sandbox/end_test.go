package sandbox

import (
	"io"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/state/statetest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// TestEndingOfLastOnly: the shim of a pod's last container hears that the machine
// ends, before the exit. That of one whose pod lives on does not: its file server is
// needed until the guest has let go of the files, which is before the exit as well.
func TestEndingOfLastOnly(t *testing.T) {
	for name, last := range map[string]bool{"last": true, "not the last": false} {
		t.Run(name, func(t *testing.T) {
			store := statetest.Store(t)
			log := logrus.New()
			log.SetOutput(io.Discard)
			s := newSandbox(&monitor.SandboxConfig{ID: "pod", Config: *config.Default()}, store, logrus.NewEntry(log))
			vm := &fakeVM{terminated: make(chan struct{}), done: make(chan struct{})}
			guest := newGuest(vm)
			s.machine, s.net = &Machine{VM: vm, Guest: guest}, noNet{}
			close(s.booted)
			shim, conn := shimPair(t)
			c := &container{
				s: s, id: "c", log: s.log, inGuest: true,
				shimGone: make(chan struct{}), unserved: make(chan struct{}), killed: make(chan struct{}), released: make(chan struct{}), removed: make(chan struct{}),
			}
			c.init = newProcess(c, "", monitor.Stdio{}, conn)
			s.containers["c"] = c
			if !last {
				s.containers["other"] = &container{}
			}
			close(c.init.ended)
			go c.supervise(t.Context())

			var ending, exit bool
			for !exit {
				var rep monitor.Reply
				if _, err := shim.Receive(&rep); err != nil {
					t.Fatal(err)
				}
				ending, exit = ending || rep.Ending, rep.Exit != nil
			}
			close(c.shimGone)
			within(t, c.released, "the release")
			guest.mu.Lock()
			defer guest.mu.Unlock()
			if removed := len(guest.removed) == 1; ending != last || isClosed(vm.terminated) != last || removed == last {
				t.Errorf("Ending: %t, machine ended: %t, removed in the guest: %t; expected %t, %t, %t", ending, isClosed(vm.terminated), removed, last, last, !last)
			}
		})
	}
}
