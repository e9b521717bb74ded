package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
)

// requestTimeout is how long a peer may take to say what it wants.
const requestTimeout = 10 * time.Second

// serve answers one connection.
func (s *Sandbox) serve(conn *monitor.Conn) {
	defer conn.Close()
	if err := monitor.CheckPeer(conn.UnixConn); err != nil {
		s.log.WithError(err).Error("refused a connection")
		return
	}
	conn.SetReadDeadline(time.Now().Add(requestTimeout))
	var req monitor.Request
	file, err := conn.Receive(&req)
	if err != nil {
		if !errors.Is(err, io.EOF) {
			s.log.WithError(err).Warn("unreadable request")
		}
		return
	}
	if file != nil {
		defer file.Close()
	}
	conn.SetReadDeadline(time.Time{})

	ctx := s.traced(context.Background(), &req)
	log := s.log.WithField("op", req.Op).WithField("container", req.Container)
	log.Debug("request")
	switch req.Op {
	case monitor.OpClaim:
		err := s.claimInTime(ctx, &req)
		sent := reply(conn, err)
		switch {
		case err == nil && sent:
			s.serveClaim(conn, req.Container)
		case err == nil && req.Room != "":
			s.callerGone(req.Container)
		case err == nil:
			s.dropClaim(req.Container)
		}
	case monitor.OpCreate:
		s.serveCreate(ctx, conn, &req, file)
	case monitor.OpExec:
		s.serveExec(ctx, conn, &req)
	case monitor.OpStream:
		s.serveStream(ctx, conn, &req)
	case monitor.OpAbandon:
		if req.Container != "" {
			s.giveUpRoom(req.Container)
		} else {
			s.giveUp(resourcecache.GiveUp)
		}
		reply(conn, nil)
	case monitor.OpEvents:
		s.serveEvents(conn, &req)
	case monitor.OpReady:
		reply(conn, s.awaitReady(ctx, conn, &req))
	default:
		rep, err := s.answer(ctx, &req)
		if err != nil {
			log.WithError(err).Debug("refused")
			rep = &monitor.Reply{Failure: monitor.FailureOf(err)}
		}
		conn.Send(rep, nil) // the asker may have gone: nothing to do about it
	}
}

func (s *Sandbox) claimInTime(ctx context.Context, req *monitor.Request) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Config.Runtime.TeardownTimeout.Std())
	defer cancel()
	return s.claim(ctx, req.Container, req.Key, resourcecache.Key(req.Room))
}

// reply sends an empty reply or a failure, and reports whether it was sent.
func reply(conn *monitor.Conn, err error) bool {
	return conn.Send(&monitor.Reply{Failure: monitor.FailureOf(err)}, nil) == nil
}

// serveClaim holds the claim on a container until it is made good, or given up,
// or its holder goes away, which both end the container.
func (s *Sandbox) serveClaim(conn *monitor.Conn, id string) {
	defer conn.Close()
	var req monitor.Request
	_, err := conn.Receive(&req)
	switch {
	case err == nil && req.Op == monitor.OpClaimed:
		_, missing := s.container(id)
		err := errors.Join(missing, failpoint.Here(failpoint.MonitorClaimed))
		if err == nil && id == s.first {
			s.mu.Lock()
			s.step(resourcecache.Acknowledge)
			s.mu.Unlock()
		}
		if err == nil {
			s.takeRoom(id)
		} else {
			s.giveUpRoom(id)
		}
		reply(conn, err)
		s.dropClaim(id)
	case err == nil && req.Op == monitor.OpAbandon && req.Room != "":
		s.callerGone(id)
		reply(conn, nil)
	case err == nil && req.Op == monitor.OpAbandon:
		s.giveUpRoom(id)
		if id == s.first {
			s.giveUp(resourcecache.GiveUp)
		}
		// Without a claim the shim can make no container any more: either it is
		// here, or it never will be.
		if c := s.dropClaim(id); c != nil {
			c.kill()
		}
		reply(conn, nil)
	default:
		s.callerGone(id)
	}
}

// answer serves the requests that have one reply.
func (s *Sandbox) answer(ctx context.Context, req *monitor.Request) (*monitor.Reply, error) {
	c, err := s.container(req.Container)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Config.Runtime.CallTimeout.Std())
	defer cancel()
	defer trace.Begin(ctx, trace.Phase, string(req.Op)).End()
	switch req.Op {
	case monitor.OpStart:
		err := c.start(ctx)
		if err == nil {
			s.guestSpans(ctx, s.machine)
		}
		return &monitor.Reply{}, err
	case monitor.OpSignal:
		return &monitor.Reply{}, c.signal(ctx, req.Process, unix.Signal(req.Signal), req.All)
	case monitor.OpStop:
		if unix.Signal(req.Signal) == unix.SIGKILL {
			return &monitor.Reply{}, c.stopNow()
		}
		return &monitor.Reply{}, c.stop(ctx, unix.Signal(req.Signal), time.Duration(req.Grace))
	case monitor.OpResize:
		return &monitor.Reply{}, c.resize(ctx, req)
	case monitor.OpProcesses:
		return &monitor.Reply{Pids: c.hostPids()}, nil
	case monitor.OpPause:
		return &monitor.Reply{}, c.pause(ctx)
	case monitor.OpResume:
		return &monitor.Reply{}, c.resume(ctx)
	case monitor.OpUpdate:
		err := c.update(ctx, req)
		return &monitor.Reply{Notices: s.size.takeNotices()}, err
	case monitor.OpStats:
		return c.stats(ctx)
	default:
		return nil, fmt.Errorf("request %q is unknown to this monitor", req.Op)
	}
}

// serveStream joins a stream of a process with the connection.
func (s *Sandbox) serveStream(ctx context.Context, conn *monitor.Conn, req *monitor.Request) {
	c, err := s.container(req.Container)
	if err != nil {
		reply(conn, err)
		return
	}
	p, err := c.process(req.Process)
	if err != nil {
		reply(conn, err)
		return
	}
	kind := api.Kind(req.Stream)
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Config.Runtime.CallTimeout.Std())
	span := trace.Begin(ctx, trace.Phase, "open "+req.Stream)
	var guest net.Conn
	if err = failpoint.Here(failpoint.MonitorStream); err == nil {
		guest, err = s.machine.Guest.OpenStream(ctx, kind, c.name, req.Process)
	}
	span.End()
	cancel()
	if !reply(conn, err) || err != nil {
		if err == nil {
			guest.Close()
		}
		p.streamEnded(kind)
		return
	}
	p.splice(kind, guest, conn.UnixConn)
}

// serveCreate makes a container for the shim at the other end, and stays with
// the shim until the container's end.
func (s *Sandbox) serveCreate(ctx context.Context, conn *monitor.Conn, req *monitor.Request, share *os.File) {
	c, err := s.newContainer(conn, req)
	if err != nil {
		reply(conn, err)
		return
	}
	defer s.remove(c)
	if share == nil && req.Image == nil {
		reply(conn, errors.New("create: the file server's socket did not come along"))
		return
	}
	// The shim's end ends the creation too, and that is when the command has lost
	// its patience: how long a machine may take to start is the boot's affair.
	creating, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.shimGone:
		case <-c.killed:
		case <-creating.Done():
		}
		cancel()
	}()
	c.init.control()
	span := trace.Begin(ctx, trace.Phase, "create")
	err = c.create(creating, req, share)
	span.End()
	if err == nil {
		err = failpoint.Here(failpoint.MonitorCreated)
	}
	if err != nil {
		c.failCreate(ctx, conn, err)
		return
	}
	limit, stop := context.WithTimeout(creating, s.cfg.Config.Runtime.CallTimeout.Std())
	if err := s.machine.catchUp(limit); err != nil {
		c.log.WithError(err).Warn("the guest's clock may be late")
	}
	stop()
	if c.id == s.first {
		s.settle()
	}
	s.guestSpans(creating, s.machine)
	rep := &monitor.Reply{Notices: append(slices.Clone(s.machine.Notices), s.size.takeNotices()...)}
	if err := conn.Send(rep, nil); err != nil {
		c.kill()
	}
	c.supervise(ctx)
}

// failCreate undoes a create, and tells the shim, which ends at once. In a machine that
// lives on it is undone first: the guest may be in the middle of something that it does
// with the shim's files, and what waits for the answer of a file server that has gone
// does so for ever (see aside). A guest that takes longer than a KILL may take does not
// keep the files.
func (c *container) failCreate(ctx context.Context, conn *monitor.Conn, why error) {
	if !c.isKilled() && c.s.last(c) {
		reply(conn, why)
		c.undoCreate(ctx)
		return
	}
	undone := make(chan struct{})
	go func() {
		defer close(undone)
		c.undoCreate(ctx)
	}()
	select {
	case <-undone:
	case <-time.After(c.s.cfg.Config.Runtime.KillTimeout.Std()):
	}
	reply(conn, why)
	<-undone
}

// serveExec starts a process for the shim, or the exec command, at the other
// end, and stays with it until the process's end.
func (s *Sandbox) serveExec(ctx context.Context, conn *monitor.Conn, req *monitor.Request) {
	c, err := s.container(req.Container)
	if err != nil {
		reply(conn, err)
		return
	}
	span := trace.Begin(ctx, trace.Phase, "exec")
	p, err := c.exec(ctx, conn, req)
	span.End()
	if err != nil {
		reply(conn, err)
		return
	}
	defer c.forget(p)
	if err := conn.Send(&monitor.Reply{Process: p.id}, nil); err != nil {
		p.signalQuietly(unix.SIGKILL)
	}
	exit := p.waitExec(ctx)
	s.guestSpans(ctx, s.machine)
	conn.Send(&monitor.Reply{Exit: exit}, nil)
	// The shim's connection ends when it has passed the exit on.
	select {
	case <-p.controlEnded:
	case <-time.After(s.cfg.Config.Runtime.TeardownTimeout.Std()):
	}
}
