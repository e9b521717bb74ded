package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// exitVMDied is the exit code of a process that ended with its VM: as if it
// had been killed by SIGKILL.
const exitVMDied = 128 + int(unix.SIGKILL)

// process is a process of a container: its init, or one of an exec.
type process struct {
	c     *container
	id    string // "" for init
	stdio monitor.Stdio
	conn  *monitor.Conn // to the shim

	ended        chan struct{} // closed when exit is set
	exit         monitor.Exit
	controlEnded chan struct{} // closed when the shim's connection has ended

	mu      sync.Mutex        // guards outputs
	outputs map[api.Kind]bool // streams whose end has not been copied yet
	flushed chan struct{}     // closed when outputs is empty
}

func newProcess(c *container, id string, stdio monitor.Stdio, conn *monitor.Conn) *process {
	p := &process{
		c: c, id: id, stdio: stdio, conn: conn,
		ended:        make(chan struct{}),
		controlEnded: make(chan struct{}),
		outputs:      make(map[api.Kind]bool),
		flushed:      make(chan struct{}),
	}
	if stdio.Terminal {
		p.outputs[api.KindConsole] = true
	} else {
		if stdio.Stdout {
			p.outputs[api.KindStdout] = true
		}
		if stdio.Stderr {
			p.outputs[api.KindStderr] = true
		}
	}
	if len(p.outputs) == 0 {
		close(p.flushed)
	}
	return p
}

func guestStdio(s monitor.Stdio) *api.Stdio {
	return &api.Stdio{Stdin: s.Stdin, Stdout: s.Stdout, Stderr: s.Stderr, Terminal: s.Terminal}
}

// control serves the shim's connection: signals and sizes come in while the
// process runs, and its end means that the shim has gone.
func (p *process) control() {
	go func() { // ends when serve closes the connection
		defer close(p.controlEnded)
		for {
			var req monitor.Request
			if _, err := p.conn.Receive(&req); err != nil {
				if p.id == "" {
					p.c.kill()
				}
				return
			}
			if err := p.forward(&req); err != nil {
				p.c.log.WithError(err).WithField("op", req.Op).Debug("forward")
			}
		}
	}()
}

func (p *process) forward(req *monitor.Request) error {
	ctx, cancel := context.WithTimeout(context.Background(), p.c.s.cfg.Config.Runtime.CallTimeout.Std())
	defer cancel()
	req.Process = p.id
	switch req.Op {
	case monitor.OpSignal:
		return p.c.signal(ctx, p.id, unix.Signal(req.Signal), false)
	case monitor.OpResize:
		return p.c.resize(ctx, req)
	case monitor.OpUnserved:
		p.c.unserve()
		return nil
	default:
		return fmt.Errorf("a shim may not ask for %q", req.Op)
	}
}

// watch waits for the end of the process, or of the VM, in the background.
func (p *process) watch() {
	m := p.c.s.machine
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		select {
		case <-m.VM.Done():
		case <-m.Guest.Done():
		case <-p.c.deserted:
		case <-p.ended:
		}
		cancel()
	}()
	go func() {
		defer close(p.ended)
		var rep *api.WaitProcessResponse
		err := failpoint.Here(failpoint.MonitorWait)
		if err == nil {
			rep, err = m.Guest.WaitProcess(ctx, &api.ProcessRequest{Container: p.c.name, Process: p.id})
		}
		if err != nil {
			p.c.log.WithError(err).Debug("wait for the process")
			p.exit.Code = exitVMDied
			return
		}
		// The guest's number goes no further than an exit code can.
		p.exit = monitor.Exit{Code: int(rep.ExitCode & 0xff), OOM: rep.Oom}
	}()
}

// flush waits until the shim has all output of an ended process. It gives up
// when the shim has gone, and a little after the container was killed.
func (p *process) flush() {
	select {
	case <-p.flushed:
		return
	case <-p.controlEnded:
		return
	case <-p.c.killed:
	}
	select {
	case <-p.flushed:
	case <-p.controlEnded:
	case <-time.After(p.c.s.cfg.Config.Runtime.FlushTimeout.Std()):
		p.c.log.Warn("output was not read in time: dropped")
	}
}

// streamEnded notes that a stream will bring nothing more.
func (p *process) streamEnded(kind api.Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.outputs[kind] {
		return
	}
	delete(p.outputs, kind)
	if len(p.outputs) == 0 {
		close(p.flushed)
	}
}

// splice copies a stream between the agent and the shim until it ends.
func (p *process) splice(kind api.Kind, guest net.Conn, shim *net.UnixConn) {
	defer guest.Close()
	switch kind {
	case api.KindStdin:
		// A shim that closes its side passes EOF on; so does one that dies.
		io.Copy(guest, shim)
	case api.KindConsole:
		go func() {
			io.Copy(guest, shim)
			// The shim's input has ended, the output goes on.
		}()
		io.Copy(shim, guest)
		shim.CloseWrite()
		p.streamEnded(kind)
	default:
		io.Copy(shim, guest)
		shim.CloseWrite()
		p.streamEnded(kind)
	}
}

// process finds a process of the container by its id.
func (c *container) process(id string) (*process, error) {
	if id == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.execs[id]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("process %s is not in container %s: %w", id, c.id, unix.ESRCH)
}

// exec starts a further process in the container.
func (c *container) exec(ctx context.Context, conn *monitor.Conn, req *monitor.Request) (*process, error) {
	c.mu.Lock()
	c.lastExec++
	p := newProcess(c, "e"+strconv.Itoa(c.lastExec), req.Stdio, conn)
	c.execs[p.id] = p
	c.mu.Unlock()

	if err := c.execInTurn(ctx, p, conn, req); err != nil {
		c.forget(p)
		return nil, err
	}
	p.control()
	p.watch()
	return p, nil
}

// execInTurn has the guest make the process. The time that the guest may take for
// that does not begin before it has begun: where many are to be made, most of it is
// waiting for the others.
func (c *container) execInTurn(ctx context.Context, p *process, conn *monitor.Conn, req *monitor.Request) error {
	limit := c.s.cfg.Config.Runtime.CallTimeout.Std()
	span := trace.Begin(ctx, trace.Phase, "wait for the turn")
	done, err := c.execTurns.take(ctx, limit/4, func() error { return conn.Send(&monitor.Reply{Waiting: true}, nil) })
	span.End()
	if err != nil {
		return err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m, err := c.s.ready(ctx)
	if err == nil {
		err = failpoint.Here(failpoint.MonitorExec)
	}
	if err == nil {
		_, err = m.Guest.ExecProcess(ctx, &api.ExecProcessRequest{
			Container: c.name, Process: p.id, Spec: req.Spec, Stdio: guestStdio(req.Stdio),
		})
	}
	if err != nil && ctx.Err() != nil {
		p.signalQuietly(unix.SIGKILL) // the guest may still be at it
	}
	return err
}

func (c *container) forget(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, p.id)
}

// waitExec waits for the end of an exec'd process, and ends it when its shim
// has gone.
func (p *process) waitExec(ctx context.Context) *monitor.Exit {
	span := trace.Begin(ctx, trace.Phase, "wait for the process")
	select {
	case <-p.ended:
	case <-p.controlEnded:
		p.signalQuietly(unix.SIGKILL)
		<-p.ended
	}
	span.End()
	span = trace.Begin(ctx, trace.Phase, "wait for the output")
	p.flush()
	span.End()
	exit := p.exit
	exit.Killed = p.c.isKilled()
	return &exit
}

func (p *process) signalQuietly(sig unix.Signal) {
	ctx, cancel := context.WithTimeout(context.Background(), p.c.s.cfg.Config.Runtime.KillTimeout.Std())
	defer cancel()
	if err := p.c.signal(ctx, p.id, sig, false); err != nil && !errors.Is(err, unix.ESRCH) {
		p.c.log.WithError(err).WithField("process", p.id).Warn("signal")
	}
}

// signal delivers a signal to one process of the container, or to all.
func (c *container) signal(ctx context.Context, process string, sig unix.Signal, all bool) error {
	m, err := c.s.ready(ctx)
	if err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.MonitorSignal); err != nil {
		return err
	}
	_, err = m.Guest.SignalProcess(ctx, &api.SignalProcessRequest{
		Container: c.name, Process: process, Signal: uint32(sig), All: all,
	})
	if errors.Is(err, client.ErrEnded) { // the process has ended by itself, and the machine with it
		return fmt.Errorf("%w: %w", unix.ESRCH, err)
	}
	return err
}
