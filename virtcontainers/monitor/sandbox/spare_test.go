package sandbox

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/statetest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// newWaiting makes a spare that is to start, of this process.
func newWaiting(t *testing.T, change func(*config.Config)) *waiting {
	t.Helper()
	store := statetest.Store(t)
	statetest.AddSpare(t, store, "spare", func(sp *state.Spare) { sp.Machine = "m" })
	log := logrus.New()
	log.SetOutput(io.Discard)
	w := &waiting{id: "spare", store: store, log: log, cfg: &monitor.SandboxConfig{ID: "spare", Exe: "/exe", Config: *config.Default()}}
	change(&w.cfg.Config)
	return w
}

// Whoever has claimed a spare gets it, with the configuration that it was made
// with, and nobody else.
func TestSpareFits(t *testing.T) {
	w := newWaiting(t, func(*config.Config) {})
	store := w.store
	boot, err := state.BootID()
	if err != nil {
		t.Fatal(err)
	}
	asked := func(change func(*monitor.SandboxConfig)) error {
		cfg := &monitor.SandboxConfig{ID: "sandbox", Exe: "/exe", Config: *config.Default()}
		change(cfg)
		return w.fits(cfg)
	}
	same := func(*monitor.SandboxConfig) {}
	if err := asked(same); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("nobody has claimed it: %v", err)
	}
	if err := store.ClaimSpare("spare", "sandbox"); err != nil {
		t.Fatal(err)
	}
	if err := asked(same); err != nil {
		t.Errorf("its claimant does not get it: %v", err)
	}
	for name, change := range map[string]func(*monitor.SandboxConfig){
		"memory":  func(c *monitor.SandboxConfig) { c.Config.Hypervisor.Memory++ },
		"runtime": func(c *monitor.SandboxConfig) { c.Exe = "/other" },
	} {
		if err := asked(change); !errors.Is(err, unix.EINVAL) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if err := asked(func(c *monitor.SandboxConfig) { c.ID = "another" }); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("another sandbox: %v", err)
	}
	if _, err := store.MakeSandboxDir("another"); err != nil {
		t.Fatal(err)
	}
	if err := store.SaveSandbox(&state.Sandbox{ID: "another", Monitor: state.Process{Pid: 1}, BootID: boot}); err != nil {
		t.Fatal(err)
	}
	if err := asked(func(c *monitor.SandboxConfig) { c.ID = "another" }); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the sandbox of another monitor: %v", err)
	}
}

// A machine does not go to anybody when its template has gone.
func TestOutlived(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "key")
	folder := func() {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	folder()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m := &Machine{template: f, templateKey: "key"}
	if err := m.outlived(); err != nil {
		t.Error(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if m.outlived() == nil {
		t.Error("its template has gone, and nobody says so")
	}
	folder()
	if m.outlived() == nil {
		t.Error("its template is another one, and nobody says so")
	}
	if (&Machine{}).outlived() == nil {
		t.Error("it has no template, and nobody says so")
	}
}
