package cgroup

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Stats are what the host's cgroup has used: VM and helpers, not the
// container in the guest. What the host does not count is 0.
type Stats struct {
	CPU        time.Duration `json:"cpu"`        // user and system
	Memory     uint64        `json:"memory"`     // bytes, with page cache
	MemoryPeak uint64        `json:"memoryPeak"` // bytes
	Pids       uint64        `json:"pids"`       // processes and threads
}

// Stats reads the statistics of the cgroup.
func (c *Cgroup) Stats() (Stats, error) {
	var s Stats
	for _, g := range c.Groups {
		if err := g.stats(&s); err != nil {
			return Stats{}, fmt.Errorf("cgroup statistics: %w", err)
		}
	}
	return s, nil
}

func (g *Group) stats(s *Stats) error {
	controllers := strings.Split(g.Controllers, ",")
	has := func(name string) bool { return slices.Contains(controllers, name) }
	var cpu uint64
	var err error
	read := func(to *uint64, file, key string) {
		if err == nil {
			err = g.number(to, file, key)
		}
	}
	if g.Controllers == "" {
		read(&cpu, "cpu.stat", "usage_usec")
		read(&s.Memory, "memory.current", "")
		read(&s.MemoryPeak, "memory.peak", "")
		read(&s.Pids, "pids.current", "")
		cpu *= 1000
	}
	if has("cpuacct") {
		read(&cpu, "cpuacct.usage", "")
	}
	if has("memory") {
		read(&s.Memory, "memory.usage_in_bytes", "")
		read(&s.MemoryPeak, "memory.max_usage_in_bytes", "")
	}
	if has("pids") {
		read(&s.Pids, "pids.current", "")
	}
	// A hybrid host's v2 hierarchy counts CPU time too.
	s.CPU = max(s.CPU, time.Duration(cpu))
	return err
}

// number reads a file with one number, or the number behind key in one with
// many. A file that is not there leaves the value as it is.
func (g *Group) number(to *uint64, file, key string) error {
	b, err := os.ReadFile(filepath.Join(g.Dir, file))
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	text := strings.TrimSpace(string(b))
	if key != "" {
		text = ""
		for line := range bytes.Lines(b) {
			if k, v, ok := strings.Cut(strings.TrimSpace(string(line)), " "); ok && k == key {
				text = v
			}
		}
	}
	if text == "" {
		return nil
	}
	if *to, err = strconv.ParseUint(text, 10, 64); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(g.Dir, file), err)
	}
	return nil
}

// offers reports whether a v2 group has the controller.
func (g *Group) offers(controller string) bool {
	if g.Controllers != "" {
		return false
	}
	b, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(b)), controller)
}
