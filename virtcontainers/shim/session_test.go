package shim

import (
	"errors"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// played is a session whose monitor is the test.
type played struct {
	*Session
	monitor  *monitor.Conn
	served   chan struct{}
	released chan struct{} // has a value for each Release
	ended    chan ended
}

type ended struct {
	code int
	err  error
}

func play(t *testing.T) *played {
	t.Helper()
	conn, file, err := monitor.Pair()
	if err != nil {
		t.Fatal(err)
	}
	peer, err := monitor.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	p := &played{
		Session: newSession(conn), monitor: peer,
		served: make(chan struct{}), released: make(chan struct{}, 9), ended: make(chan ended, 1),
	}
	p.Session.served, p.FlushTimeout = p.served, 50*time.Millisecond
	p.Release = func() { p.released <- struct{}{} }
	t.Cleanup(func() { p.monitor.Close(); p.Close() })
	go func() {
		code, err := p.Wait(nil)
		p.ended <- ended{code, err}
	}()
	return p
}

func (p *played) tell(t *testing.T, rep monitor.Reply) {
	t.Helper()
	if err := p.monitor.Send(&rep, nil); err != nil {
		t.Fatal(err)
	}
}

func within[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(10 * time.Second):
		t.Fatalf("%s did not come in 10 s", what)
		panic("not reached")
	}
}

// TestEnding: when the machine has been killed the file server goes, and the shim
// stays until the machine has gone, longer than without a word from the monitor.
func TestEnding(t *testing.T) {
	p := play(t)
	p.tell(t, monitor.Reply{Ending: true})
	within(t, p.released, "the file server's end")
	close(p.served)
	select {
	case e := <-p.ended:
		t.Fatalf("ended with %+v before the exit was told", e)
	case <-time.After(4 * p.FlushTimeout):
	}
	p.tell(t, monitor.Reply{Ending: true}) // twice is no harm
	p.tell(t, monitor.Reply{Exit: &monitor.Exit{Code: 3}})
	if e := within(t, p.ended, "the session's end"); e.code != 3 || e.err != nil {
		t.Errorf("got %+v, want the exit code", e)
	}
	var req monitor.Request
	p.monitor.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := p.monitor.Receive(&req); err == nil {
		t.Errorf("asked for %q of a machine that was ending", req.Op)
	}
}

// TestMonitorDiesWhileEnding: who dies while the machine does has not told the exit,
// and is not waited for.
func TestMonitorDiesWhileEnding(t *testing.T) {
	p := play(t)
	p.tell(t, monitor.Reply{Ending: true})
	within(t, p.released, "the file server's end")
	p.monitor.Close()
	if e := within(t, p.ended, "the session's end"); e.code != exitGone || !errors.Is(e.err, monitor.ErrGone) {
		t.Errorf("got %+v, want %d", e, exitGone)
	}
}

// TestUnserved: a file server that ends by itself is the container's end, and the
// monitor has little time to say more about that.
func TestUnserved(t *testing.T) {
	p := play(t)
	close(p.served)
	var req monitor.Request
	p.monitor.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := p.monitor.Receive(&req); err != nil || req.Op != monitor.OpUnserved {
		t.Errorf("the monitor was asked for %q, %v", req.Op, err)
	}
	if e := within(t, p.ended, "the session's end"); e.code != exitGone || !errors.Is(e.err, monitor.ErrGone) {
		t.Errorf("got %+v, want %d", e, exitGone)
	}
}
