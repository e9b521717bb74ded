package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor/vhostuser"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/share"
)

// rehearsal is the name of the container that a spare runs before anybody asks for
// one, and of its share.
const rehearsal = "rehearsal"

// shareName is the name that the file server's socket has for a moment in the
// folder of a spare.
const shareName = "share.sock"

// rehearsing is a machine that plays the life of a container from its creation to
// its removal, as a sandbox's would: with a file server, whose device comes and
// goes, streams, a further process, and a KILL. An emulator has translated all of
// that code then, and the guest's kernel found its way through it; nothing of it is
// left.
type rehearsing struct {
	m     *Machine
	cfg   *config.Config
	dir   string // of the spare
	log   *logrus.Entry
	steps atomic.Uint64
	// offer is what a file server can do; nil where there is none, or it cannot be
	// attached to a device that is there before.
	offer *vhostuser.Offer
}

// rehearse plays it.
func (r *rehearsing) rehearse(ctx context.Context) error {
	return r.patiently(ctx, "rehearse a container", r.play)
}

// patiently does something, each step of which may take as long as a call to a guest:
// that does not count what the host has no CPU for.
func (r *rehearsing) patiently(ctx context.Context, what string, do func(context.Context) error) error {
	limit := r.cfg.Runtime.CallTimeout.Std()
	late := fmt.Errorf("no progress for %s, without what the host had no CPU for (runtime.call_timeout)", limit)
	ctx, stop := newPatience(limit, late, func() uint64 { return r.steps.Load() + r.m.VM.Progress() }).watch(ctx)
	defer stop()
	err := do(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = errors.Join(cause, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (r *rehearsing) play(ctx context.Context) (err error) {
	if err := r.m.refresh(ctx); err != nil { // as who adopts it does
		return err
	}
	path, err := r.cfg.Share.ServerPath()
	if err != nil { // who runs images only needs none
		_, err = r.m.Guest.Rehearse(ctx, &api.Empty{})
		return err
	}
	server, err := share.StartScratch(ctx, path, r.cfg.Share.Cache, rehearsed(), r.dir, shareName)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.Runtime.TeardownTimeout.Std())
		defer cancel()
		err = errors.Join(err, server.End(ctx))
	}()
	if offer, err := vhostuser.Ask(ctx, server.Socket); err == nil {
		r.offer = &offer
	} else {
		r.log.WithError(err).Warn("no share can be plugged before its file server is there")
	}
	device, err := r.m.VM.PlugShare(ctx, rehearsal, server.Socket)
	if err != nil {
		return err
	}
	server.Socket.Close() // the VM has its own
	if err := failpoint.Here(failpoint.SpareRehearse); err != nil {
		return err
	}
	if err := r.create(ctx, server); err != nil {
		return err
	}
	if err := r.live(ctx); err != nil {
		return err
	}
	if _, err := r.m.Guest.RemoveContainer(ctx, &api.ContainerRequest{Container: rehearsal}); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	r.steps.Add(1)
	return device.Unplug(ctx)
}

// create makes the container.
func (r *rehearsing) create(ctx context.Context, server *share.Server) error {
	_, err := r.m.Guest.CreateContainer(ctx, &api.CreateContainerRequest{
		Container: rehearsal, ShareTag: rehearsal, Spec: []byte(api.RehearsedSpec), Stdio: allStreams(),
	})
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	r.steps.Add(1)
	return server.LeaveHost()
}

func allStreams() *api.Stdio { return &api.Stdio{Stdin: true, Stdout: true, Stderr: true} }

// live starts the container, runs two further processes in it, of which the second
// one is killed, and waits for its end.
func (r *rehearsing) live(ctx context.Context) error {
	init, err := r.connect(ctx, "")
	if err != nil {
		return err
	}
	defer init.close()
	if _, err := r.m.Guest.StartContainer(ctx, &api.ContainerRequest{Container: rehearsal}); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	r.steps.Add(1)
	for _, process := range []string{"ends", "killed"} {
		if err := r.exec(ctx, process); err != nil {
			return fmt.Errorf("exec: %w", err)
		}
		r.steps.Add(1)
	}
	return init.end(ctx, 0)
}

// exec runs a further process, which ends by itself or by a signal.
func (r *rehearsing) exec(ctx context.Context, name string) error {
	_, err := r.m.Guest.ExecProcess(ctx, &api.ExecProcessRequest{
		Container: rehearsal, Process: name, Spec: []byte(api.RehearsedProcess), Stdio: allStreams(),
	})
	if err != nil {
		return err
	}
	p, err := r.connect(ctx, name)
	if err != nil {
		return err
	}
	defer p.close()
	if name != "killed" {
		return p.end(ctx, 0)
	}
	_, err = r.m.Guest.SignalProcess(ctx, &api.SignalProcessRequest{Container: rehearsal, Process: name, Signal: uint32(unix.SIGKILL)})
	if err != nil {
		return err
	}
	return p.end(ctx, 128+uint32(unix.SIGKILL))
}

// rehearsedProcess is a process of the container with its streams.
type rehearsedProcess struct {
	r       *rehearsing
	name    string
	streams []net.Conn // stdin, stdout, stderr
	ended   chan error // what its wait gives
	code    uint32     // then
}

// connect opens the streams of a process and waits for its end meanwhile.
func (r *rehearsing) connect(ctx context.Context, name string) (*rehearsedProcess, error) {
	p := &rehearsedProcess{r: r, name: name, ended: make(chan error, 1)}
	go func() {
		end, err := r.m.Guest.WaitProcess(ctx, &api.ProcessRequest{Container: rehearsal, Process: name})
		p.code = end.GetExitCode()
		p.ended <- err
	}()
	for _, kind := range []api.Kind{api.KindStdin, api.KindStdout, api.KindStderr} {
		stream, err := r.m.Guest.OpenStream(ctx, kind, rehearsal, name)
		if err != nil {
			p.close()
			return nil, err
		}
		p.streams = append(p.streams, stream)
	}
	return p, nil
}

func (p *rehearsedProcess) close() {
	for _, s := range p.streams {
		s.Close()
	}
}

// end closes the process's input, reads its output to the end and gives an error
// unless it ends with that exit code.
func (p *rehearsedProcess) end(ctx context.Context, code uint32) error {
	stop := context.AfterFunc(ctx, p.close)
	defer stop()
	if err := p.streams[0].Close(); err != nil {
		return err
	}
	for _, output := range p.streams[1:] {
		if _, err := io.Copy(io.Discard, output); err != nil {
			return fmt.Errorf("read the output of process %q: %w", p.name, err)
		}
	}
	if err := <-p.ended; err != nil {
		return fmt.Errorf("wait for process %q: %w", p.name, err)
	}
	if p.code != code {
		return fmt.Errorf("process %q: exit code %d, expected %d", p.name, p.code, code)
	}
	p.r.steps.Add(1)
	return nil
}

// spareRatio is how many times runtime.create_timeout a spare may take to be
// ready: who comes last in the queue of a busy host waits long, and each step
// looks for progress itself.
const spareRatio = mostRatio

// SpareLimit is how long a spare may take to be ready.
func SpareLimit(cfg *config.Config) time.Duration {
	if limit := cfg.Runtime.CreateTimeout.Std(); limit < math.MaxInt64/spareRatio {
		return spareRatio * limit
	}
	return math.MaxInt64 // it is infinite
}
