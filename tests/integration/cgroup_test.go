package integration

import (
	"fmt"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestCgroup looks where the processes of a container live: engines read that
// cgroup. The suite sees to it that none is left.
func TestCgroup(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	path := "/" + e.ID()
	c := e.Started(nil, func(s *specs.Spec) { s.Linux.CgroupsPath = path })
	pids := e.SandboxPids(c.ID)
	for what, pid := range map[string]int{"shim": c.Pid, "monitor": pids.Monitor, "VM": pids.VM} {
		in := e.Read(fmt.Sprintf("/proc/%d/cgroup", pid))
		for line := range strings.Lines(in) {
			if strings.Contains(line, ":memory:") && !strings.HasSuffix(strings.TrimSpace(line), path) {
				t.Errorf("the %s is in %s, want %s", what, strings.TrimSpace(line), path)
			}
		}
		if !strings.Contains(in, path) {
			t.Errorf("the %s is not in %s:\n%s", what, path, in)
		}
	}
	e.OK("kill", c.ID, "KILL")
	c.Wait(sluggish)
	c.Delete()
}

// TestBadCgroupsPath: what the systemd driver cannot read is refused, with the
// field's name.
func TestBadCgroupsPath(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	b := e.Bundle(func(s *specs.Spec) { s.Linux.CgroupsPath = "not/three:parts" })
	res := e.Do("--systemd-cgroup", "create", "--bundle", b.Dir, e.ID())
	e.FailedWith(res, 1, "linux.cgroupsPath")
}
