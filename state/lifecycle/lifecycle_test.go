package lifecycle

import (
	"errors"
	"testing"
)

var statuses = []Status{Creating, Created, Running, Paused, Stopped}

// TestAllow is the table of the operations, by status, with the texts that
// runc gives. CRI-O (StopContainer) and containerd's shim (kill) match
// "container not running"; the rest is in runc's own tests.
func TestAllow(t *testing.T) {
	const (
		ok         = ""
		notRunning = "container not running"
		notPaused  = "container not paused"
	)
	for _, c := range []struct {
		op   Op
		o    Options
		want [5]string // in the order of statuses
	}{
		{OpStart, Options{}, [5]string{
			"cannot start a container in the creating state", ok,
			"cannot start an already running container", "cannot start a container in the paused state",
			"cannot start a container that has stopped"}},
		{OpExec, Options{}, [5]string{
			"cannot exec in a container in the creating state", ok, ok,
			"cannot exec in a paused container (use --ignore-paused to override)",
			"cannot exec in a stopped container"}},
		{OpExec, Options{IgnorePaused: true}, [5]string{
			"cannot exec in a container in the creating state", ok, ok, ok,
			"cannot exec in a stopped container"}},
		{OpKill, Options{}, [5]string{ok, ok, ok, ok, notRunning}},
		{OpKill, Options{All: true}, [5]string{ok, ok, ok, ok, ok}},
		{OpPause, Options{}, [5]string{
			"container not running or created: creating", ok, ok,
			"container not running or created: paused", "container not running or created: stopped"}},
		{OpResume, Options{}, [5]string{notPaused, notPaused, notPaused, ok, notPaused}},
		{OpUpdate, Options{}, [5]string{notRunning, ok, ok, ok, notRunning}},
		{OpPs, Options{}, [5]string{notRunning, ok, ok, ok, notRunning}},
		{OpDelete, Options{ID: "X"}, [5]string{
			"cannot delete container X that is not stopped: creating", ok,
			"cannot delete container X that is not stopped: running",
			"cannot delete container X that is not stopped: paused", ok}},
		{OpDelete, Options{ID: "X", Force: true}, [5]string{ok, ok, ok, ok, ok}},
	} {
		for i, s := range statuses {
			got := ""
			if err := Allow(c.op, s, c.o); err != nil {
				got = err.Error()
			}
			if got != c.want[i] {
				t.Errorf("%s %+v when %s: %q, want %q", c.op, c.o, s, got, c.want[i])
			}
		}
	}
}

func TestAllowIsErrNotRunning(t *testing.T) {
	for _, op := range []Op{OpKill, OpPause, OpUpdate, OpPs} {
		if err := Allow(op, Stopped, Options{}); !errors.Is(err, ErrNotRunning) {
			t.Errorf("%s when stopped: %v, want ErrNotRunning", op, err)
		}
	}
}

func TestAllowUnknown(t *testing.T) {
	if Allow("dance", Running, Options{Force: true}) == nil {
		t.Error("an unknown operation is allowed")
	}
	for _, op := range []Op{OpStart, OpExec, OpKill, OpPause, OpResume, OpUpdate, OpPs, OpDelete} {
		if Allow(op, "odd", Options{Force: true, All: true, IgnorePaused: true}) == nil {
			t.Errorf("%s is allowed in an unknown status", op)
		}
	}
}

func TestDerive(t *testing.T) {
	for _, recorded := range []Status{Creating, Created, Running, Paused} {
		for bits := range 8 {
			l := Liveness{Creator: bits&1 != 0, Shim: bits&2 != 0, Monitor: bits&4 != 0}
			var want Status
			wantOK := true
			switch {
			case recorded == Creating && l.Creator:
				want = Creating
			case recorded == Creating:
				wantOK = false // whatever else lives
			case bits == 6 || bits == 7: // shim and monitor
				want = recorded
			default:
				want = Stopped
			}
			got, ok := Derive(recorded, l)
			if got != want || ok != wantOK {
				t.Errorf("%s %+v: %q %t, want %q %t", recorded, l, got, ok, want, wantOK)
			}
		}
	}
}
