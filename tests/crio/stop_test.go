package crio

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// program is what the container that is stopped runs.
type program struct {
	name, script string
	codes        []int // exit codes that may come of it
	// onItsOwn has the process exit at the moment when it is stopped.
	onItsOwn bool
	// grace is for the process after TERM: what obeys needs its time on a busy
	// machine, and is never to be killed.
	grace time.Duration
}

var programs = []program{
	{"obeys", "trap 'exit 5' TERM; touch /ready; while :; do sleep 0.05; done", []int{5}, false, limit},
	{"ignores", "trap '' TERM; touch /ready; while :; do sleep 0.05; done", []int{137}, false, 2 * time.Second},
	{"exits", "trap 'exit 5' TERM; touch /ready; until [ -e /go ]; do :; done; exit 7", []int{5, 7, 137}, true, 2 * time.Second},
}

// modes are the two ways of TERM: CRI-O's clock counts with the second one.
var modes = []struct{ name, onTerm string }{{"stop", "stop"}, {"signal", "signal"}}

// TestStop is CRI-O's StopContainer and what follows, again and again: the
// root file system is unmounted at the first try and `state`, asked once, says
// stopped. Every second one runs on a machine that is busy.
func TestStop(t *testing.T) {
	cycles := 20
	if v := os.Getenv("VC_CRIO_CYCLES"); v != "" {
		var err error
		if cycles, err = strconv.Atoi(v); err != nil {
			t.Fatalf("VC_CRIO_CYCLES: %v", err)
		}
	}
	for i := range cycles {
		prog, mode, busy := programs[i%len(programs)], modes[i/len(programs)%len(modes)], i%2 == 1
		name := fmt.Sprintf("%s/on_term=%s/busy=%t/%d", prog.name, mode.name, busy, i)
		t.Run(name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			if busy {
				load(e)
			}
			p := newPod(e.Configured(testenv.Settings{
				"runtime.on_term": strconv.Quote(mode.onTerm), "runtime.stop_grace": strconv.Quote(prog.grace.String()),
			}))
			// The processes' own time is spread over the stop's.
			p.cycle(prog, time.Duration(i*7%40)*time.Millisecond)
		})
	}
}

// load keeps all CPUs busy until the test ends.
func load(e *testenv.Env) {
	e.Helper()
	for range runtime.NumCPU() {
		d, err := e.StartDaemon(testenv.Command{Path: testenv.Tool(e, "sh"), Args: []string{"-c", "while :; do :; done"}})
		if err != nil {
			e.Fatal(err)
		}
		e.Cleanup(func() {
			if err := d.Stop(); err != nil {
				e.Error(err)
			}
		})
	}
}

// cycle is the life of one container.
func (p *pod) cycle(prog program, delay time.Duration) {
	p.Helper()
	c := p.create(testenv.Shell(prog.script))
	c.OK("start", c.id)
	c.ready()
	p.IsStatus(c.id, "running")
	if prog.onItsOwn {
		// Written from the host while the stop begins.
		done := make(chan error, 1)
		go func() {
			time.Sleep(delay)
			done <- os.WriteFile(filepath.Join(c.bundle.Rootfs, "go"), nil, 0o644)
		}()
		defer func() {
			if err := <-done; err != nil {
				p.Error(err)
			}
		}()
	}
	c.stop(prog.grace)
	if err := c.bundle.Overlay.Cycle(); err != nil {
		p.Error(err)
	}
	if st := p.State(c.id); string(st.Status) != "stopped" || st.Pid != 0 {
		p.Errorf("state, asked once: %s, pid %d", st.Status, st.Pid)
	}
	if code := c.ended(); !slices.Contains(prog.codes, code) {
		p.Errorf("exit code %d, expected one of %v", code, prog.codes)
	}
	c.delete()
}

// ready waits until the program has made its file: TERM before its trap is set would
// go to the first process of a namespace, which ignores it.
func (c *container) ready() {
	c.Helper()
	testenv.Eventually(c, limit, func() error {
		_, err := os.Stat(filepath.Join(c.bundle.Rootfs, "ready"))
		return err
	})
}

// stop is CRI-O's: TERM by number, a look at the process every 100 ms for the
// grace period, then KILL again and again.
func (c *container) stop(grace time.Duration) {
	c.Helper()
	const look = 100 * time.Millisecond
	c.kill("15")
	for deadline := time.Now().Add(grace); testenv.Alive(c.pid) && time.Now().Before(deadline); {
		time.Sleep(look)
	}
	for deadline := time.Now().Add(limit); testenv.Alive(c.pid); time.Sleep(look) {
		if time.Now().After(deadline) {
			c.Fatalf("process %d still lives", c.pid)
		}
		c.kill("KILL")
	}
}

// kill sends a signal. To CRI-O a container that does not run is no failure.
func (c *container) kill(signal string) {
	c.Helper()
	res := c.Do("kill", c.id, signal)
	if res.Code != 0 {
		c.FailedWith(res, 1, "container not running")
	}
}
