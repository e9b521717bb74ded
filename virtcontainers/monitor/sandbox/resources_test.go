package sandbox

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// TestEventsTellEachOOMKill: everybody who listens is told, and the end of the
// container is the end of the connection.
func TestEventsTellEachOOMKill(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	exits := b.running()
	var listeners []*monitor.Conn
	for range 2 {
		conn := b.dial()
		if _, err := conn.Call(t.Context(), &monitor.Request{Op: monitor.OpEvents, Container: "c"}, nil); err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, conn)
	}
	for range 3 {
		b.guest.oomKill()
		for _, conn := range listeners {
			var rep monitor.Reply
			if _, err := conn.Receive(&rep); err != nil || !rep.OOM {
				t.Fatalf("got %+v, %v", rep, err)
			}
		}
	}
	listeners[0].Close() // one that goes harms nobody
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)}); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, exits); !e.OOM {
		t.Errorf("exit %+v", e)
	}
	var rep monitor.Reply
	if _, err := listeners[1].Receive(&rep); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %+v, %v", rep, err)
	}
}
