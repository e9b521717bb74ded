package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// ModulesFile lists the kernel modules of the guest image.
const ModulesFile = "/etc/vc/modules.json"

// Modules is the table of kernel modules of the guest image: paths of .ko
// files, each list in an order in which they can be loaded.
type Modules struct {
	Boot   []string            `json:"boot"`   // needed for the channel
	Groups map[string][]string `json:"groups"` // loaded on demand, by name

	mu     sync.Mutex      // held while a group loads
	loaded map[string]bool // guarded by mu
}

// ReadModules reads the table. An image without one has everything built in.
func ReadModules(path string) (*Modules, error) {
	m := &Modules{loaded: map[string]bool{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, m); err != nil {
		return nil, fmt.Errorf("decode %s: %w", path, err)
	}
	return m, nil
}

// LoadBoot loads the modules that the channel needs.
func (m *Modules) LoadBoot() error { return loadAll(m.Boot) }

// Preload loads what every container will need, while the host is still
// preparing the first one.
func (m *Modules) Preload() error {
	return errors.Join(m.Load(shareModules), m.giveBack(), m.seal(modulesDisabled))
}

// builtIn reports whether a group is part of the kernel itself.
func (m *Modules) builtIn(group string) bool { return len(m.Groups[group]) == 0 }

// modulesDisabled keeps everybody from loading modules until the machine ends,
// once it is 1 (Linux: Documentation/admin-guide/sysctl/kernel.rst).
const modulesDisabled = "/proc/sys/kernel/modules_disabled"

// seal makes sure that no container, however privileged, loads modules into a
// kernel that needs none.
func (m *Modules) seal(file string) error {
	for group := range m.Groups {
		if !m.builtIn(group) {
			return nil
		}
	}
	if len(m.Boot) > 0 {
		return nil
	}
	err := os.WriteFile(file, []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel that cannot load any
		return fmt.Errorf("refuse modules: %w", err)
	}
	return nil
}

// Load loads a group. A group that is not in the table is built in.
func (m *Modules) Load(group string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.loaded[group] {
		return nil
	}
	if err := loadAll(m.Groups[group]); err != nil {
		return err
	}
	m.loaded[group] = true
	return nil
}

func loadAll(paths []string) error {
	for _, path := range paths {
		if err := loadModule(path); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open module %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.FinitModule(fd, "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("load module %s: %w", path, err)
	}
	return nil
}
