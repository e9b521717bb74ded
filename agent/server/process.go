package server

import (
	"sync/atomic"

	"github.com/vc-runtime/vc-runtime/agent/reaper"
	"github.com/vc-runtime/vc-runtime/agent/spans"
)

// process is a process that the host knows by name.
type process struct {
	io    *stdio
	child *reaper.Child // set before ready is closed; nil when the start failed

	ready chan struct{} // closed when it has been started, or could not be
	done  chan struct{} // closed when it has ended, or was never there
	oom   bool          // written before done is closed

	// unwanted is set where it was killed before it had started.
	unwanted atomic.Bool
}

func newProcess(io *stdio) *process {
	return &process{io: io, ready: make(chan struct{}), done: make(chan struct{})}
}

// started sets the child and waits for its end in the background. oom is asked
// once it has ended, and life is then over.
func (p *process) started(life spans.Span, child *reaper.Child, oom func() bool) {
	p.child = child
	close(p.ready)
	go func() {
		<-child.Done()
		life.End()
		p.oom = oom()
		p.io.exit()
		close(p.done)
	}()
}

// failed says that the process could not be started.
func (p *process) failed() {
	close(p.ready)
	close(p.done)
}

// running gives the child of a process that has been started and not ended.
func (p *process) running() (*reaper.Child, bool) {
	select {
	case <-p.ready:
	default:
		return nil, false
	}
	select {
	case <-p.done:
		return nil, false
	default:
		return p.child, true
	}
}
