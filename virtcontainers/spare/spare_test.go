package spare

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/statetest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
)

// files are the files that a machine is made of, and a configuration with them.
func files(t *testing.T) (cfg *config.Config, exe string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"exe", "qemu", "manifest.json", "kernel"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cfg = config.Default()
	cfg.Hypervisor.QEMU, cfg.Hypervisor.GuestImage = filepath.Join(dir, "qemu"), dir
	cfg.Hypervisor.Kernel = filepath.Join(dir, "kernel")
	return cfg, filepath.Join(dir, "exe")
}

func key(t *testing.T, cfg *config.Config, exe string) Key {
	t.Helper()
	k, err := KeyOf(cfg, exe)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A spare is only for who would start just that: whatever of the configuration
// or of the files differs, the key does.
func TestKeyOf(t *testing.T) {
	cfg, exe := files(t)
	was := key(t, cfg, exe)
	if again := key(t, cfg, exe); again != was {
		t.Errorf("%v, then %v", was, again)
	}
	for name, change := range map[string]func(*config.Config){
		"memory":     func(c *config.Config) { c.Hypervisor.Memory += config.MiB },
		"CPUs":       func(c *config.Config) { c.Hypervisor.CPUs++ },
		"most CPUs":  func(c *config.Config) { c.Hypervisor.MaxCPUs++ },
		"accel":      func(c *config.Config) { c.Hypervisor.Accel = config.AccelTCG },
		"channel":    func(c *config.Config) { c.Hypervisor.Channel = config.ChannelSerial },
		"network":    func(c *config.Config) { c.Network.Vhost = config.VhostOff },
		"share":      func(c *config.Config) { c.Share.Cache = config.CacheNever },
		"cache":      func(c *config.Config) { c.Hypervisor.CacheDir = "/elsewhere" },
		"timeout":    func(c *config.Config) { c.Runtime.CallTimeout = config.Seconds(1) },
		"annotation": func(c *config.Config) { c.Runtime.Annotations = nil },
		"no kernel":  func(c *config.Config) { c.Hypervisor.Kernel = "" },
	} {
		other := *cfg
		change(&other)
		if key(t, &other, exe).Machine == was.Machine {
			t.Errorf("another %s, the same key", name)
		}
	}
	for _, path := range []string{exe, cfg.Hypervisor.QEMU, cfg.Hypervisor.Kernel, filepath.Join(cfg.Hypervisor.GuestImage, "manifest.json")} {
		before := key(t, cfg, exe)
		if err := os.WriteFile(path, []byte("something longer"), 0o700); err != nil {
			t.Fatal(err)
		}
		if key(t, cfg, exe).Machine == before.Machine {
			t.Errorf("another %s, the same key", path)
		}
	}
}

// What the host's last boot has left is of no use, and removed. Nothing is
// signalled for it: its pids are others' now.
func TestAnotherBoot(t *testing.T) {
	store := statetest.Store(t)
	statetest.AddSpare(t, store, "new", func(sp *state.Spare) { sp.VM, sp.Ready = sp.Monitor, true })
	statetest.AddSpare(t, store, "old", func(sp *state.Spare) { sp.VM, sp.Ready, sp.BootID = sp.Monitor, true, "another boot" })
	ended, err := EndAll(context.Background(), store, func(sp *state.Spare) bool { return !Lives(sp) })
	if err != nil || len(ended) != 1 || ended[0] != "old" {
		t.Errorf("ended: %v %v", ended, err)
	}
	ids, gone, err := store.Spares()
	if err != nil || len(ids) != 1 || ids[0] != "new" || len(gone) != 0 {
		t.Errorf("left: %v %v %v", ids, gone, err)
	}
}
