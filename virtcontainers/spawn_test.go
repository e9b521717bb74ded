package virtcontainers

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// TestEndShim: the shim of a create that is given up ends by itself when the claim
// has gone, as its monitor tells it. It is killed where that takes too long, and at
// once where the monitor does not answer.
func TestEndShim(t *testing.T) {
	for name, tt := range map[string]struct {
		script   string // the shim; its stdin is the claim's other end
		patience config.Duration
		unheard  bool
		ends     bool // by itself
	}{
		"by itself":            {"read x; echo >ended", config.Seconds(60), false, true},
		"too late":             {"read x; exec sleep 60", config.Seconds(0.05), false, false},
		"a monitor that hangs": {"read x; sleep 60; echo >ended", config.Seconds(60), true, false},
	} {
		t.Run(name, func(t *testing.T) {
			claim, other, err := monitor.Pair()
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			conn, parent, err := monitor.Pair()
			if err != nil {
				t.Fatal(err)
			}
			defer parent.Close()
			dir := t.TempDir()
			proc, err := os.StartProcess("/bin/sh", []string{"sh", "-c", tt.script}, &os.ProcAttr{Dir: dir, Files: []*os.File{other}})
			if err != nil {
				t.Fatal(err)
			}
			other.Close()
			r := &Runtime{Config: config.Default()}
			r.Config.Runtime.KillTimeout, r.Config.Runtime.TeardownTimeout = tt.patience, config.Seconds(120)
			s := &begunShim{started: make(chan struct{}), proc: proc, conn: conn}
			close(s.started)
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := r.endShim(ctx, &plan{claim: claim, unheard: tt.unheard}, s); err != nil {
				t.Error(err)
			}
			if err := proc.Signal(os.Interrupt); err == nil {
				t.Error("it lives")
			}
			if _, err := os.Stat(filepath.Join(dir, "ended")); (err == nil) != tt.ends {
				t.Errorf("it ended by itself: %t, expected %t", err == nil, tt.ends)
			}
		})
	}
}
