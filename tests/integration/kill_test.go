package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// ready says in the rootfs that a script's traps are set.
const ready = "touch /ready; while :; do sleep 0.1; done"

// sluggish is how much longer than its grace a kill may take: emulation is
// slow, and the machine may do other things. It is less than a grace of a minute.
const sluggish = 30 * time.Second

// stopped checks what a kill with TERM or KILL promises at its return: the
// shim is gone, the rootfs released, the status known.
func stopped(t testing.TB, c *testenv.Container) {
	t.Helper()
	if testenv.Alive(c.Pid) {
		t.Error("kill has returned, and the shim lives")
	}
	if err := c.Bundle.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	c.IsStatus(c.ID, "stopped")
}

// TestStopSignal ends a container by the signal that its image names, which stops
// as TERM does.
func TestStopSignal(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	const annotation = "org.opencontainers.image.stopSignal"
	c := e.Started(nil, testenv.Shell("trap '' TERM; trap 'exit 3' INT; "+ready), testenv.Grace("60s"), testenv.Annotation(annotation, "SIGINT"))
	c.WaitFor("ready")
	e.OK("kill", c.ID)
	stopped(t, c)
	e.Equal("exit code", c.Wait(time.Second), 3)
	c.Delete()
	c = e.Started(nil, testenv.Annotation(annotation, "SIGNONSENSE"))
	e.Fails(`annotation org.opencontainers.image.stopSignal: "SIGNONSENSE": expected a signal`, "kill", c.ID)
	c.DeleteForced()
}

func TestKill(t *testing.T) {
	for _, tt := range []struct {
		name   string
		script string
		grace  string
		args   []string // of kill, after the id
		code   int
		atLeast,
		atMost time.Duration
	}{
		{"TERM obeyed", "trap 'exit 3' TERM; " + ready, "60s", []string{"TERM"}, 3, 0, sluggish},
		{"default is TERM", "trap 'exit 4' TERM; " + ready, "60s", nil, 4, 0, sluggish},
		{"TERM ignored", "trap '' TERM; " + ready, "1s", []string{"15"}, 137, time.Second, time.Second + sluggish},
		{"KILL", ready, "60s", []string{"KILL"}, 137, 0, sluggish},
		{"KILL by number, --all", ready, "60s", []string{"9"}, 137, 0, sluggish},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			c := e.Started(nil, testenv.Shell(tt.script), testenv.Grace(tt.grace))
			c.WaitFor("ready")
			args := append([]string{"kill", c.ID}, tt.args...)
			if strings.HasSuffix(tt.name, "--all") {
				args = append([]string{"kill", "--all", c.ID}, tt.args...)
			}
			res := e.OK(args...)
			stopped(t, c)
			t.Logf("kill took %s", res.Took.Round(time.Millisecond))
			if res.Took < tt.atLeast || res.Took > tt.atMost {
				t.Errorf("kill took %s, expected %s to %s", res.Took, tt.atLeast, tt.atMost)
			}
			e.Equal("exit code", c.Wait(time.Second), tt.code)
			e.Fails("container not running", "kill", c.ID, "KILL")
			e.Fails("container not running", "kill", c.ID, "TERM")
			e.OK("kill", "--all", c.ID, "KILL")
			c.Delete()
		})
	}
}

// TestKillPreemptsTerm has a TERM wait for ever, and a KILL overtake it.
func TestKillPreemptsTerm(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil, testenv.Shell("trap 'touch /termed' TERM; "+ready), testenv.Grace("infinity"))
	c.WaitFor("ready")

	term := make(chan *testenv.Result, 1)
	go func() { term <- e.Do("kill", c.ID, "TERM") }()
	c.WaitFor("termed")
	select {
	case res := <-term:
		t.Fatalf("TERM has not waited: %s", res)
	default:
	}
	e.IsStatus(c.ID, "running") // nobody holds what state needs
	if res := e.OK("kill", c.ID, "KILL"); res.Took > sluggish {
		t.Errorf("KILL took %s while a TERM waits", res.Took)
	}
	stopped(t, c)
	select {
	case res := <-term:
		e.Equal("exit code of the TERM that was overtaken", res.Code, 0)
	case <-time.After(sluggish):
		t.Error("TERM goes on waiting for a stopped container")
		<-term
	}
	e.Equal("exit code", c.Wait(time.Second), 137)
	c.Delete()
}

// TestKillSignals has one container for what does not end it.
func TestKillSignals(t *testing.T) {
	e := suite.New(t)
	c := e.Started(nil, testenv.Shell("for s in HUP USR1 WINCH; do trap \"echo got $s; touch /$s\" $s; done; "+ready))
	c.WaitFor("ready")
	for _, tt := range []struct{ arg, file string }{
		{"HUP", "HUP"}, {"sigusr1", "USR1"}, {"28", "WINCH"},
	} {
		e.OK("kill", c.ID, tt.arg)
		c.WaitFor(tt.file)
		e.IsStatus(c.ID, "running")
	}
	if e.IsVM() { // runc 1.1 knows no signal 0
		e.OK("kill", c.ID, "0")
	}
	for _, bad := range []string{"NONESUCH", "99999", "-3"} {
		if res := e.Do("kill", c.ID, bad); res.Code == 0 {
			t.Errorf("a signal that is none: %s", res)
		}
	}
	e.IsStatus(c.ID, "running")
	e.OK("kill", c.ID, "KILL")
	e.Equal("exit code", c.Wait(sluggish), 137)
	e.Equal("stdout", c.Stdout(), "got HUP\ngot USR1\ngot WINCH\n")
	e.Fails("container not running", "kill", c.ID, "0")
	c.Delete()
}

// TestKillCreated stops a container whose process does not run yet.
func TestKillCreated(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Container(nil, testenv.Grace("infinity"))
	if res := e.OK("kill", c.ID, "TERM"); res.Took > sluggish {
		t.Errorf("TERM on a created container took %s", res.Took)
	}
	stopped(t, c)
	e.Fails("cannot start a container that has stopped", "start", c.ID)
	c.Delete()
}

// TestKillOnTermSignal has TERM only delivered, and the caller wait.
func TestKillOnTermSignal(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(testenv.Settings{"runtime.on_term": `"signal"`})
	c := e.Started(nil, testenv.Shell("trap 'touch /termed; until [ -e /go ]; do sleep 0.1; done; exit 5' TERM; "+ready),
		testenv.Grace("1s"))
	c.WaitFor("ready")
	if res := e.OK("kill", c.ID, "TERM"); res.Took > sluggish {
		t.Errorf("TERM took %s, although it is only delivered", res.Took)
	}
	c.WaitFor("termed")
	e.IsStatus(c.ID, "running")
	write(t, c, "go", "")
	e.Equal("exit code", c.Wait(exitLimit), 5)
	if err := c.Bundle.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	c.Delete()
}
