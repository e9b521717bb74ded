package crio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

const dropIn = "crio/10-vc-runtime.conf"

// runtimeHandler is an entry of crio.runtime.runtimes, with the keys that every
// CRI-O from 1.20 on has (pkg/config/config.go, RuntimeHandler; crio.conf(5)).
type runtimeHandler struct {
	RuntimePath                  string   `toml:"runtime_path"`
	RuntimeType                  string   `toml:"runtime_type"`
	RuntimeRoot                  string   `toml:"runtime_root"`
	PrivilegedWithoutHostDevices bool     `toml:"privileged_without_host_devices"`
	AllowedAnnotations           []string `toml:"allowed_annotations"`
	MonitorPath                  string   `toml:"monitor_path"`
	MonitorCgroup                string   `toml:"monitor_cgroup"`
	MonitorEnv                   []string `toml:"monitor_env"`
}

// crioConfig has those keys of crio.runtime that a drop-in for a runtime may set.
type crioConfig struct {
	Crio struct {
		Runtime struct {
			DefaultRuntime string                    `toml:"default_runtime"`
			DropInfraCtr   *bool                     `toml:"drop_infra_ctr"`
			Runtimes       map[string]runtimeHandler `toml:"runtimes"`
		} `toml:"runtime"`
	} `toml:"crio"`
}

// readDropIn reads a drop-in as CRI-O does, and refuses what that would: it ignores
// unknown keys, so that a wrong one would go unnoticed.
func readDropIn(text string) (*crioConfig, error) {
	var config crioConfig
	meta, err := toml.Decode(text, &config)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, key := range meta.Undecoded() {
		errs = append(errs, fmt.Errorf("%s: no key of CRI-O's", key))
	}
	for name, h := range config.Crio.Runtime.Runtimes {
		if !slices.Contains([]string{"", "oci", "vm"}, h.RuntimeType) {
			errs = append(errs, fmt.Errorf("%s: runtime_type %q: oci or vm is expected", name, h.RuntimeType))
		}
		for key, path := range map[string]string{"runtime_path": h.RuntimePath, "runtime_root": h.RuntimeRoot, "monitor_path": h.MonitorPath} {
			if !filepath.IsAbs(path) {
				errs = append(errs, fmt.Errorf("%s: %s %q is not an absolute path", name, key, path))
			}
		}
	}
	return &config, errors.Join(errs...)
}

// TestDropIn reads packaging/crio as strictly as CRI-O could, and follows it to the
// programs that it names and to the RuntimeClass that names it.
func TestDropIn(t *testing.T) {
	text, err := testenv.DropIn(dropIn)
	if err != nil {
		t.Fatal(err)
	}
	config, err := readDropIn(string(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(config.Crio.Runtime.Runtimes) != 1 || handler.RuntimeType != "oci" || !handler.PrivilegedWithoutHostDevices {
		t.Errorf("%+v", config.Crio.Runtime.Runtimes)
	}
	if drop := config.Crio.Runtime.DropInfraCtr; drop == nil || *drop {
		t.Errorf("drop_infra_ctr: %v", drop)
	}
	if config.Crio.Runtime.DefaultRuntime != "" {
		t.Errorf("a drop-in that makes %s the default of the node", config.Crio.Runtime.DefaultRuntime)
	}
	if path, err := os.Readlink(handler.RuntimePath); err != nil || path != suite.Runtime {
		t.Errorf("runtime_path leads to %q, %v", path, err)
	}
	if err := unix.Access(handler.MonitorPath, unix.X_OK); err != nil {
		t.Errorf("monitor_path %s: %v", handler.MonitorPath, err)
	}
	class, err := testenv.DropIn("kubernetes/runtimeclass.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(class), "\nhandler: vc-runtime\n") {
		t.Errorf("the RuntimeClass has another handler: %s", class)
	}
	for _, bad := range []string{
		"[crio.runtime]\nno_such_key = 1", "[crio.runtime.runtimes.x]\nruntime_paht = \"/x\"", "[crio.runtime.runtimes.x]\nruntime_type = \"kata\"",
		"[crio.runtime.runtimes.x]\nruntime_path = \"relative\"", "drop_infra_ctr = false",
	} {
		if _, err := readDropIn(bad); err == nil {
			t.Errorf("no error: %s", bad)
		}
	}
}
