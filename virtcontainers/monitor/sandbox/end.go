package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// undoCreate takes back a creation that failed.
func (c *container) undoCreate(ctx context.Context) {
	if !c.s.booting() && c.s.machine != nil {
		c.release(ctx)
	}
	c.kill()
	close(c.released)
}

// supervise stays with a created container until its end, and does the
// teardown: when it returns the shim has ended, and with it the file server.
func (c *container) supervise(ctx context.Context) {
	step := func(name string, do func(context.Context)) {
		defer trace.Begin(ctx, trace.Phase, name).End()
		do(ctx)
	}
	step("the container's life", func(context.Context) {
		select {
		case <-c.init.ended:
		case <-c.shimGone:
		case <-c.killed:
		}
	})
	step("end the processes", c.endProcess)
	step("wait for the output", func(context.Context) { c.init.flush() })
	if !c.isKilled() { // whoever kills does not wait for a guest
		ctx, cancel := context.WithTimeout(ctx, c.s.cfg.Config.Runtime.KillTimeout.Std())
		c.s.guestSpans(ctx, c.s.machine)
		cancel()
	}
	step("release", c.release)
	step("note an OOM kill", func(context.Context) { c.noteOOM() })
	exit := c.init.exit
	exit.Killed = c.isKilled()
	c.log.WithField("code", exit.Code).Info("the container has ended")
	if err := failpoint.Here(failpoint.MonitorExit); err != nil {
		c.log.WithError(err).Error("tell the exit code")
	}
	c.init.conn.Send(&monitor.Reply{Exit: &exit}, nil)
	step("wait for the shim", func(context.Context) { c.waitShim() })
	close(c.released)
}

// endProcess makes sure that the container's processes are dead: by asking
// the guest, and where that does not answer in time by force.
func (c *container) endProcess(ctx context.Context) {
	if isClosed(c.init.ended) {
		return
	}
	timeout := c.s.cfg.Config.Runtime.KillTimeout.Std()
	// Without its shim or file server the container has no rootfs: its processes
	// may hang on that, and in a VM of its own there is nothing to be gentle with.
	rootless := isClosed(c.init.controlEnded) || isClosed(c.unserved)
	if !rootless || !c.s.last(c) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		err := c.signal(ctx, "", unix.SIGKILL, true)
		if err == nil || errors.Is(err, unix.ESRCH) {
			select {
			case <-c.init.ended:
			case <-ctx.Done():
				err = fmt.Errorf("killed processes are still there after %s", timeout)
			}
		}
		cancel()
		if isClosed(c.init.ended) {
			return
		}
		c.log.WithError(err).Warn("the guest does not end the container: using force")
	}
	if c.s.last(c) {
		c.killVM(ctx)
	} else {
		c.fence(ctx)
	}
	<-c.init.ended
}

// unserve ends the container for want of its files. The file server of one whose
// process has ended may go: the VM's end is its own.
func (c *container) unserve() {
	if isClosed(c.init.ended) || isClosed(c.unserved) {
		return
	}
	close(c.unserved)
	c.log.Error("the container's file server has ended")
	c.kill()
}

// fence takes the host's files away from a container of a pod whose processes do
// not die, so that its rootfs is released all the same. Where the guest confirms the
// KILL they do nothing more but wait, for an answer of the file server as a rule, and
// may be left to it. Otherwise the VM is killed.
func (c *container) fence(ctx context.Context) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.s.cfg.Config.Runtime.TeardownTimeout.Std())
	defer cancel()
	err := c.shim.Kill(limited) // the file server goes with it
	if err == nil {
		err = c.signal(limited, "", unix.SIGKILL, true)
	}
	if err == nil || errors.Is(err, unix.ESRCH) && limited.Err() == nil {
		c.desert()
		return
	}
	c.log.WithError(err).Error("cannot fence the container: ending the whole sandbox")
	c.killVM(ctx)
}

// release gives back what the sandbox holds for the container.
func (c *container) release(ctx context.Context) {
	if c.s.last(c) {
		c.killVM(ctx)
		return
	}
	c.mu.Lock()
	inGuest := c.inGuest
	c.inGuest = false
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.s.cfg.Config.Runtime.TeardownTimeout.Std())
	defer cancel()
	defer c.s.aside.changed()
	if inGuest {
		if err := c.removeInGuest(ctx); err != nil {
			c.log.WithError(err).Warn("remove the container in the guest")
			c.leave(err)
			c.s.putAside(c)
			return
		}
	}
	if err := errors.Join(failpoint.Here(failpoint.MonitorUnplug), unplug(ctx, c.takeDevices())); err != nil {
		c.log.WithError(err).Warn("unplug the container's devices")
		c.leave(err)
	}
}

// removeInGuest has the guest remove the container. When the shim has gone the host
// holds nothing of it any more, and the guest, without the file server, hardly can: it
// is not waited for longer than for a KILL.
func (c *container) removeInGuest(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-c.shimGone:
			t := time.AfterFunc(c.s.cfg.Config.Runtime.KillTimeout.Std(), cancel)
			<-ctx.Done()
			t.Stop()
		case <-ctx.Done():
		}
	}()
	if err := failpoint.Here(failpoint.MonitorRemove); err != nil {
		return err
	}
	_, err := c.s.machine.Guest.RemoveContainer(ctx, &api.ContainerRequest{Container: c.name})
	return err
}

// leave notes that something of the container could not be taken away, left
// gives that.
func (c *container) leave(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remains = errors.Join(c.remains, err)
}

func (c *container) left() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.remains
}

// waitShim waits for the shim, which writes the rest of the output and exits.
// A reader may take its time for that, until somebody kills the container.
func (c *container) waitShim() {
	select {
	case <-c.shimGone:
		return
	case <-c.killed:
	}
	select {
	case <-c.shimGone:
		return
	case <-time.After(c.s.cfg.Config.Runtime.FlushTimeout.Std() + time.Second):
	}
	c.log.Warn("the shim does not end: killing it")
	if err := c.shim.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		c.log.WithError(err).Error("kill the shim")
	}
	<-c.shimGone
}

// stop is StopContainer for a polite signal: it waits for the end of the
// process, at most the grace (for ever where that is negative), and kills.
func (c *container) stop(ctx context.Context, sig unix.Signal, grace time.Duration) error {
	c.mu.Lock()
	started := c.started
	c.mu.Unlock()
	if !started {
		return c.stopNow()
	}
	if err := c.signal(ctx, "", sig, false); err != nil && !errors.Is(err, unix.ESRCH) {
		c.log.WithError(err).Warn("deliver the signal: waiting out the grace all the same")
	}
	var over <-chan time.Time
	if grace >= 0 {
		t := time.NewTimer(grace)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-c.released:
		return nil
	case <-c.killed: // a KILL has overtaken
	case <-over:
		c.log.WithField("grace", grace).Info("the container does not obey: killing it")
	}
	return c.stopNow()
}

// stopNow kills the container and returns when it has been released.
func (c *container) stopNow() error {
	c.kill()
	<-c.released
	return nil
}

// kill makes the container end at once. It does not wait.
func (c *container) kill() { c.killOnce.Do(func() { close(c.killed) }) }

func (c *container) isKilled() bool { return isClosed(c.killed) }

// killVM ends the VM that c is the last container of; everything in it ends
// with 137. The kernel needs a while for that, in which the shim ends the file
// server: the guest does nothing more.
func (c *container) killVM(ctx context.Context) {
	s := c.s
	if s.booting() || s.machine == nil {
		return // the boot notices that the sandbox is idle
	}
	span := trace.Begin(ctx, trace.Phase, "kill the VM")
	err := errors.Join(failpoint.Here(failpoint.MonitorKillVM), s.machine.VM.Terminate())
	c.init.conn.Send(&monitor.Reply{Ending: true}, nil) // a shim that has gone has no file server either
	err = errors.Join(err, s.machine.VM.Kill())
	span.End()
	if err != nil {
		s.log.WithError(err).Error("kill the VM")
	}
	defer trace.Begin(ctx, trace.Phase, "leave the network").End()
	// Now, and not before: a QEMU that loses its tap spins.
	if err := errors.Join(failpoint.Here(failpoint.MonitorCloseNetwork), s.net.close()); err != nil {
		s.log.WithError(err).Error("leave the network")
	}
}
