package integration

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// event is a line of events, with runc's names.
type event struct {
	Type, ID string
	Data     *struct {
		CPU struct {
			Usage struct{ Total, Kernel, User uint64 }
		}
		Memory struct {
			Usage struct{ Limit, Usage uint64 }
			Raw   map[string]uint64
		}
		Pids             struct{ Current, Limit uint64 }
		NetworkInterface []struct{ Name string } `json:"network_interfaces"`
	}
}

func (e event) check(t *testing.T, id string) {
	t.Helper()
	if e.Type != "stats" || e.ID != id || e.Data == nil {
		t.Fatalf("event %+v", e)
	}
	d := e.Data
	switch {
	case d.CPU.Usage.Total == 0 || d.CPU.Usage.Kernel+d.CPU.Usage.User > d.CPU.Usage.Total*11/10:
		t.Errorf("cpu: %+v", d.CPU)
	case d.Memory.Usage.Limit != 64<<20 || d.Memory.Usage.Usage == 0 || d.Memory.Usage.Usage > 64<<20 || d.Memory.Raw["anon"] == 0:
		t.Errorf("memory: %+v", d.Memory)
	case d.Pids.Current < 1 || d.Pids.Current > 20:
		t.Errorf("pids: %+v", d.Pids)
	}
}

// TestStats prints the statistics of a container once.
func TestStats(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil, memoryLimit(64<<20), testenv.Shell(ready))
	c.WaitFor("ready")
	res := e.OK("events", "--stats", c.ID)
	var ev event
	if err := json.Unmarshal([]byte(res.Stdout), &ev); err != nil || strings.Count(res.Stdout, "\n") != 1 {
		t.Fatalf("%v: %s", err, res)
	}
	ev.check(t, c.ID)
	e.OK("kill", c.ID, "KILL")
	e.Fails("container with id "+c.ID+" is not running", "events", "--stats", c.ID)
	e.Fails("container with id "+c.ID+" is not running", "events", c.ID)
	c.Delete()
	e.Fails("does not exist", "events", "--stats", c.ID)
}

// TestEvents follows a container through two OOM kills to its end.
func TestEvents(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil, memoryLimit(64<<20), testenv.Shell(
		"await() { until [ -e $1 ]; do sleep 0.1; done; }; await /one; "+eater+"; touch /ready; await /two; "+eater+"; await /end"))
	cmd := exec.Command(e.Runtime, append(e.Globals(), "events", "--interval", "300ms", c.ID)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	next := func(kind string) { // skips others
		t.Helper()
		for lines.Scan() {
			var ev event
			if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
				t.Fatalf("%v: %s", err, lines.Text())
			}
			if ev.Type == "stats" {
				ev.check(t, c.ID)
			}
			if ev.Type == kind {
				return
			}
		}
		t.Fatalf("the events have ended before %s", kind)
	}
	next("stats")
	next("stats")
	write(t, c, "one", "")
	next("oom")
	c.WaitFor("ready")
	write(t, c, "two", "")
	next("oom")
	next("stats")
	write(t, c, "end", "")
	for lines.Scan() {
		if strings.Contains(lines.Text(), "oom") {
			t.Errorf("an event too many: %s", lines.Text())
		}
	}
	e.Equal("exit code of events", e.Await(cmd.Process.Pid, exitLimit), 0)
	c.Wait(exitLimit)
	c.Delete()
}
