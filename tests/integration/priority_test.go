package integration

import (
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestPriority: a process is scheduled as config.json says, from its first
// instruction on, and so is one of exec.
func TestPriority(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	// Nice value and policy of itself (proc(5)), and the I/O class.
	const show = "cut -d' ' -f19,41 </proc/self/stat; ionice"
	c := e.Started(nil, testenv.Shell(show+"; "+ready), func(s *specs.Spec) {
		s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
		s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 4}
	})
	c.WaitFor("ready")
	process := e.Write("process.json", `{"args":["sh","-c","sleep 1; `+show+`"],"cwd":"/","env":["PATH=/bin"],"user":{"uid":0,"gid":0},
		"scheduler":{"policy":"SCHED_IDLE"},"ioPriority":{"class":"IOPRIO_CLASS_IDLE","priority":0}}`)
	e.Equal("exec", e.OK("exec", "--process", process, c.ID).Stdout, "0 5\nidle\n")
	e.OK("kill", c.ID, "KILL")
	c.Wait(exitLimit)
	e.Equal("the container's process", strings.TrimSpace(c.Stdout()), "4 3\nbest-effort: prio 6")
	c.Delete()

	b := e.Bundle(func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedFIFO, Priority: 1000} })
	if res := e.Do("create", "--bundle", b.Dir, e.ID()); res.Code != 1 || !strings.Contains(res.Stderr, "process.scheduler") {
		t.Errorf("a priority that the policy does not have: %s", res)
	}
}
