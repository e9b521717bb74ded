package qemu

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/hypertest"
)

// probeConfig is a probe whose KVM device opens, and whose driver is a fake.
func probeConfig(t *testing.T, d *hypertest.Driver) ProbeConfig {
	t.Helper()
	dir := t.TempDir()
	m := validConfig()
	for name, path := range map[string]*string{"qemu": &m.Binary, "vmlinux": &m.Kernel, "initrd": &m.Initrd, "kvm": nil} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if path != nil {
			*path = file
		}
	}
	return ProbeConfig{
		Driver: d, Machine: m, ImageID: "image", Device: filepath.Join(dir, "kvm"),
		CacheFile: filepath.Join(dir, "accel.json"), Timeout: 10 * time.Second,
	}
}

func silent(net.Conn) {}

func TestProbeAccel(t *testing.T) {
	tests := map[string]struct {
		driver *hypertest.Driver
		cfg    func(*ProbeConfig)
		accel  hypervisor.Accel
		reason string
	}{
		"works": {driver: &hypertest.Driver{}, accel: hypervisor.AccelKVM},
		"no device": {
			driver: &hypertest.Driver{}, cfg: func(c *ProbeConfig) { c.Device = "/nowhere/kvm" },
			accel: hypervisor.AccelTCG, reason: "open /nowhere/kvm: no such file or directory",
		},
		"guest does not boot": {
			driver: &hypertest.Driver{Agent: silent}, cfg: func(c *ProbeConfig) { c.Timeout = 30 * time.Millisecond },
			accel: hypervisor.AccelTCG, reason: "the guest did not answer in 30ms",
		},
		"guest babbles": {
			driver: &hypertest.Driver{Agent: func(c net.Conn) { c.Write([]byte("\x00\xff\n")) }},
			accel:  hypervisor.AccelTCG, reason: "decode",
		},
		"QEMU does not start": {
			driver: &hypertest.Driver{StartErr: errors.New("QEMU ended: signal: aborted")},
			accel:  hypervisor.AccelTCG, reason: "signal: aborted",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := probeConfig(t, tt.driver)
			if tt.cfg != nil {
				tt.cfg(&cfg)
			}
			for _, fresh := range []bool{true, false} {
				p, err := ProbeAccel(testContext(t), cfg)
				if err != nil {
					t.Fatal(err)
				}
				if p.Accel != tt.accel || p.Fresh != fresh ||
					(p.Reason == "") != (tt.reason == "") || !strings.Contains(p.Reason, tt.reason) {
					t.Errorf("got %+v, want %s, %q, fresh %t", p, tt.accel, tt.reason, fresh)
				}
			}
			for _, vm := range tt.driver.VMs() {
				if vm.Process().Alive() {
					t.Error("a trial machine is left")
				}
			}
		})
	}
}

// A QEMU that ends is not waited for until the timeout.
func TestProbeAccelNoticesTheEnd(t *testing.T) {
	d := &hypertest.Driver{}
	d.Agent = func(net.Conn) { d.VMs()[0].Process().Kill(context.Background()) }
	cfg := probeConfig(t, d)
	cfg.Timeout = time.Hour
	p, err := ProbeAccel(testContext(t), cfg)
	if err != nil || p.Accel != hypervisor.AccelTCG || !strings.Contains(p.Reason, "killed") {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestProbeAccelOnceForAll(t *testing.T) {
	d := &hypertest.Driver{}
	cfg := probeConfig(t, d)
	var wg sync.WaitGroup
	var mu sync.Mutex
	fresh := 0
	for range 20 {
		wg.Go(func() {
			p, err := ProbeAccel(testContext(t), cfg)
			if err != nil || p.Accel != hypervisor.AccelKVM {
				t.Errorf("got %+v, %v", p, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if p.Fresh {
				fresh++
			}
		})
	}
	wg.Wait()
	if n := len(d.VMs()); n != 1 || fresh != 1 {
		t.Errorf("%d machines, %d fresh answers", n, fresh)
	}
}

func TestProbeAccelKey(t *testing.T) {
	changes := map[string]func(*ProbeConfig){
		"image":         func(c *ProbeConfig) { c.ImageID = "other" },
		"QEMU updated":  func(c *ProbeConfig) { os.Chtimes(c.Machine.Binary, time.Time{}, time.Unix(1, 0)) },
		"device":        func(c *ProbeConfig) { c.Device = "/nowhere/kvm" },
		"damaged cache": func(c *ProbeConfig) { os.Truncate(c.CacheFile, 20) },
		"foreign cache": func(c *ProbeConfig) { os.WriteFile(c.CacheFile, []byte(`{"version":99,"probes":7}`), 0o600) },
		"absurd answer": func(c *ProbeConfig) {
			b, _ := os.ReadFile(c.CacheFile)
			os.WriteFile(c.CacheFile, []byte(strings.ReplaceAll(string(b), `"kvm"`, `"xen"`)), 0o600)
		},
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			cfg := probeConfig(t, &hypertest.Driver{})
			if _, err := ProbeAccel(testContext(t), cfg); err != nil {
				t.Fatal(err)
			}
			change(&cfg)
			for _, fresh := range []bool{true, false} {
				if p, err := ProbeAccel(testContext(t), cfg); err != nil || p.Fresh != fresh {
					t.Errorf("got %+v, %v, want fresh %t", p, err, fresh)
				}
			}
		})
	}
}

// Two images in turn do not evict each other; the file stays small.
func TestProbeAccelKeepsSome(t *testing.T) {
	cfg := probeConfig(t, &hypertest.Driver{})
	cfg.Device = "/nowhere/kvm" // no machine needed
	for i := range 2 * cacheLimit {
		cfg.ImageID = strings.Repeat("x", i+1)
		if _, err := ProbeAccel(testContext(t), cfg); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(readProbes(cfg.CacheFile)); n != cacheLimit {
		t.Errorf("%d answers kept", n)
	}
	cfg.ImageID = strings.Repeat("x", cacheLimit+2)
	if p, err := ProbeAccel(testContext(t), cfg); err != nil || p.Fresh {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestProbeAccelErrors(t *testing.T) {
	t.Run("no QEMU", func(t *testing.T) {
		cfg := probeConfig(t, &hypertest.Driver{})
		cfg.Machine.Binary += "-missing"
		if _, err := ProbeAccel(testContext(t), cfg); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no image", func(t *testing.T) {
		cfg := probeConfig(t, &hypertest.Driver{})
		cfg.Machine.Initrd += "-missing"
		if _, err := ProbeAccel(testContext(t), cfg); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("caller gives up", func(t *testing.T) {
		d := &hypertest.Driver{Agent: silent}
		cfg := probeConfig(t, d)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if p, err := ProbeAccel(ctx, cfg); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %+v, %v", p, err)
		}
		if len(readProbes(cfg.CacheFile)) != 0 {
			t.Error("an answer that was not found out is cached")
		}
		for _, vm := range d.VMs() {
			if vm.Process().Alive() {
				t.Error("a trial machine is left")
			}
		}
	})
}
