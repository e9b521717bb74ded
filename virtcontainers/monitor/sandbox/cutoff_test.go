package sandbox

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/state/statetest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// workingGuest is one that is at work with a container's files until it has removed
// that. told says that they may go away.
type workingGuest struct {
	Guest
	told     chan struct{}
	deserted bool
	hangs    bool
}

func (g *workingGuest) RemoveContainer(context.Context, *api.ContainerRequest) (*api.Empty, error) {
	var done <-chan time.Time
	if !g.hangs {
		done = time.After(20 * time.Millisecond)
	}
	select {
	case <-g.told:
		g.deserted = true
	case <-done:
	}
	return &api.Empty{}, nil
}

// TestCutOffIsUndoneFirst: the shim of a create that was cut off, in a machine that
// lives on, is told when the guest has let go of its files. One that takes longer
// than a KILL may take does not keep it.
func TestCutOffIsUndoneFirst(t *testing.T) {
	for name, tt := range map[string]struct {
		patience config.Duration
		deserted bool
	}{
		"in time":  {config.Seconds(60), false},
		"too late": {config.Seconds(0.001), true},
	} {
		t.Run(name, func(t *testing.T) {
			store := statetest.Store(t)
			log := logrus.New()
			log.SetOutput(io.Discard)
			cfg := &monitor.SandboxConfig{ID: "pod", Config: *config.Default()}
			cfg.Config.Runtime.KillTimeout = tt.patience
			s := newSandbox(cfg, store, logrus.NewEntry(log))
			guest := &workingGuest{told: make(chan struct{}), hangs: tt.deserted}
			s.machine = &Machine{VM: &fakeVM{done: make(chan struct{})}, Guest: guest}
			close(s.booted)
			c := &container{
				s: s, id: "c", log: s.log, inGuest: true,
				shimGone: make(chan struct{}), killed: make(chan struct{}), released: make(chan struct{}), removed: make(chan struct{}),
			}
			s.containers["c"], s.containers["other"] = c, &container{}
			shim, conn := shimPair(t)
			c.kill()
			undone := make(chan struct{})
			go func() {
				defer close(undone)
				c.failCreate(t.Context(), conn, errors.New("cut off"))
			}()
			if _, err := shim.Answer(t.Context(), monitor.OpCreate); err == nil || err.Error() != "cut off" {
				t.Errorf("the shim is told %v", err)
			}
			close(guest.told)
			<-undone
			if guest.deserted != tt.deserted {
				t.Errorf("the shim was told while the guest was at work with its files: %t, expected %t", guest.deserted, tt.deserted)
			}
			if !isClosed(c.released) {
				t.Error("the container is not released")
			}
		})
	}
}
