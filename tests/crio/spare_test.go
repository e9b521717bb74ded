package crio

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestSpare has a pod start in a spare machine: conmon ends with the container,
// whatever the create has left behind to make the next spare.
func TestSpare(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(testenv.Settings{"hypervisor.spares": "1"})
	p := newPod(e)
	defer func() { e.OK("spare", "rm") }()
	e.OK("spare", "create")
	var was []struct{ Monitor, VM int }
	if err := json.Unmarshal([]byte(e.OK("spare", "ls", "--format", "json").Stdout), &was); err != nil || len(was) != 1 {
		t.Fatalf("spares: %v %v", was, err)
	}
	c := p.create(testenv.Args("sleep", "1000"))
	if now := p.SandboxPids(p.id); now.Monitor != was[0].Monitor || now.VM != was[0].VM {
		t.Errorf("the sandbox has %v, the spare was %v", now, was)
	}
	c.OK("start", c.id)
	e.OK("spare", "create") // returns when the next one is ready
	c.OK("kill", c.id, "KILL")
	if code := c.ended(); code != 137 {
		t.Errorf("exit code %d", code)
	}
	c.delete()
	p.Await(was[0].Monitor, time.Minute)
}
