package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// cold has the case find no template, so that it makes one. What it leaves of it
// is not for the next case.
func (m *matrix) cold() {
	dir := filepath.Join(suite.Dir, "cache/templates")
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			m.Error(err)
		}
	}
	remove()
	m.Cleanup(remove)
	m.unchanged = func() error {
		aside, err := filepath.Glob(filepath.Join(dir, ".aside-*"))
		if len(aside) != 0 {
			err = fmt.Errorf("templates that were not finished: %v", aside)
		}
		return err
	}
}

// large has the container want more than a machine begins with.
func (m *matrix) large() {
	memory, quota, period := int64(400<<20), int64(200000), uint64(100000)
	m.options = append(m.options, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	})
}

// withDisk gives the container a block device, which nobody holds afterwards.
func (m *matrix) withDisk() {
	dev := m.LoopDevice("disk", "")
	m.options = append(m.options, m.BlockDevice(dev, "/dev/disk", "rwm"))
	m.unchanged = func() error {
		f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0) // as its user does
		if err != nil {
			return err
		}
		return f.Close()
	}
}

// wired gives the container an interface, in a namespace that is its caller's.
func (m *matrix) wired() {
	path := m.NewBridge("faults", "10.77.0.1/24").Pod("10.77.0.2/24")
	m.options = append(m.options, testenv.NetworkNamespace(path))
	before := m.interfaces(path)
	m.unchanged = func() error {
		if now := m.interfaces(path); now != before {
			return fmt.Errorf("interfaces: %s, and before: %s", now, before)
		}
		return nil
	}
}

// interfaces are the names of those in a network namespace.
func (m *matrix) interfaces(netns string) string {
	m.Helper()
	res := m.Run(m, testenv.Command{Path: testenv.Tool(m, "nsenter"), Args: []string{"--net=" + netns, "cat", "/proc/self/net/dev"}})
	if res.Code != 0 {
		m.Fatal(res)
	}
	var names []string
	for line := range strings.Lines(res.Stdout) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return strings.Join(names, " ")
}
