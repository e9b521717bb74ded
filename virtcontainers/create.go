package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cgroup"
	"github.com/vc-runtime/vc-runtime/virtcontainers/hooks"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
	"github.com/vc-runtime/vc-runtime/virtcontainers/share"
	"github.com/vc-runtime/vc-runtime/virtcontainers/shim"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// Create makes a container, its process waiting in the guest before exec. On
// an error nothing is left of it; the error names the phase that failed.
func (r *Runtime) Create(ctx context.Context, o CreateOptions) error {
	_, err := r.create(ctx, o, true)
	return err
}

// create is Create, and gives the shim's process, a child of the caller. A
// container that is detached from the caller needs a console socket for its
// terminal.
func (r *Runtime) create(ctx context.Context, o CreateOptions, detached bool) (*os.Process, error) {
	if err := state.ValidateID(o.ID); err != nil {
		return nil, err
	}
	go cgroup.Hasten() // no longer than the first move of a process would wait
	span := trace.Begin(ctx, trace.Phase, "plan")
	p, err := r.plan(o)
	span.End()
	if err != nil {
		return nil, err
	}
	if detached && o.ConsoleSocket == "" && p.bundle.Spec.Process.Terminal {
		return nil, errNoConsole
	}
	r.Reap(ctx)
	ctx, cancel := context.WithTimeout(ctx, r.Config.Runtime.CreateTimeout.Std())
	defer cancel()
	if err := failpoint.Here(failpoint.CreateBegin); err != nil {
		return nil, err
	}
	span = trace.Begin(ctx, trace.Phase, "begin")
	op, err := r.beginCreate(ctx, o.ID)
	span.End()
	if err != nil {
		return nil, err
	}
	defer op.End()
	ctx, unwatch, err := op.Watch(ctx)
	if err != nil {
		return nil, err
	}
	defer unwatch()
	if err := r.makeRoom(ctx, p); err != nil {
		return nil, err
	}
	defer p.closeClaim()
	var undo cleanup
	proc, err := r.build(ctx, p, &undo)
	if err == nil {
		if r.spares() > 0 {
			r.refill(ctx, p)
		}
		return proc, nil
	}
	tooSlow := errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	p.keepRoom = tooSlow && p.room != ""
	if p.claim != nil && p.key != "" && tooSlow {
		undo.keepSandbox() // the same create may come again, and finds it
		err = fmt.Errorf("%w: it goes on, and is kept for the same create for %s", err, r.Config.Runtime.UnclaimedTimeout.Std())
	}
	return nil, errors.Join(err, undo.run())
}

// step stands before each step of a create: it gives the reason where nobody
// wants the container any more, because it is being deleted, or was too slow.
func step(ctx context.Context, next failpoint.Name) error {
	if err := failpoint.Here(next); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// The texts of runc for a terminal that has nowhere to go, or nowhere to come
// from.
var (
	errNoConsole  = errors.New("cannot allocate tty if runc will detach without setting console socket")
	errNoTerminal = errors.New("cannot use console socket if runc will not detach or allocate tty")
)

// plan is a create that has been checked as far as can be without making
// anything.
type plan struct {
	CreateOptions
	bundle  *oci.Bundle
	guest   *oci.Guest
	share   *share.Config // nil where there is nothing to share
	netns   string        // path, or "" for a fresh one
	sandbox string
	role    oci.Role
	demand  size.Demand
	// podDemand is that of the whole sandbox, as far as the caller tells.
	podDemand size.Demand
	process   json.RawMessage
	hooks     json.RawMessage
	key       resourcecache.Key // "" for what is not kept
	// room is key of one that has joined a sandbox, in whose machine room is kept for
	// it; keepRoom is set where it is to be kept now.
	room     resourcecache.Key
	keepRoom bool
	record   *state.Container // once it is being built
	place    *place
	// claim is good while it is open: the monitor ends, or keeps, what nobody
	// claims.
	claim *monitor.Conn
	// unheard is set when the monitor has not answered that it is given up.
	unheard bool
	// spareKey is that of the spares which are of use.
	spareKey func() (spare.Key, error)
	// adopted is the record of an earlier create, whose sandbox claim is for.
	adopted *state.Container
}

func (p *plan) closeClaim() {
	if p.claim != nil {
		p.claim.Close()
	}
}

func (r *Runtime) plan(o CreateOptions) (*plan, error) {
	b, err := oci.Load(o.Bundle)
	if err != nil {
		return nil, err
	}
	terminal := b.Spec.Process.Terminal
	if o.ConsoleSocket != "" && !terminal {
		return nil, errNoTerminal
	}
	if o.PreserveFDs > 0 {
		return nil, fmt.Errorf("--preserve-fds %d: descriptors cannot be handed into a virtual machine", o.PreserveFDs)
	}
	p := &plan{CreateOptions: o, bundle: b, spareKey: sync.OnceValues(func() (spare.Key, error) { return spare.KeyOf(r.Config, r.Exe) })}
	if p.netns, _, err = oci.NetworkNamespace(b.Spec); err != nil {
		return nil, err
	}
	if p.podDemand, err = size.OfPod(b.Spec.Annotations); err != nil {
		return nil, err
	}
	p.demand = size.Of(b.Limits())
	if err := r.planSandbox(p); err != nil {
		return nil, err
	}
	for _, d := range p.guest.Dropped {
		r.Log.WithField("container", o.ID).Debugf("%s is not applied: %s", d.Field, d.Reason)
	}
	if err := hooks.Check(b.Spec.Hooks); err != nil {
		return nil, err
	}
	if b.Spec.Hooks != nil {
		if p.hooks, err = json.Marshal(b.Spec.Hooks); err != nil {
			return nil, fmt.Errorf("encode hooks: %w", err)
		}
	}
	if _, err := r.Config.Grace(b.Spec.Annotations); err != nil {
		return nil, err // now, not at the first TERM
	}
	if p.process, err = json.Marshal(b.Spec.Process); err != nil {
		return nil, fmt.Errorf("encode process: %w", err)
	}
	if o.Image != nil && len(p.guest.Binds) == 0 {
		return p, nil // nothing to share: no file server is needed
	}
	server, err := r.Config.Share.ServerPath()
	if err != nil {
		return nil, err
	}
	p.share = &share.Config{Server: server, Cache: r.Config.Share.Cache, Rootfs: b.Rootfs}
	for _, bind := range p.guest.Binds {
		p.share.Binds = append(p.share.Binds, share.Bind{
			Source: bind.Source, Destination: bind.Destination, Recursive: bind.Recursive,
			ReadOnly: bind.ReadOnly, RecursiveReadOnly: bind.RecursiveReadOnly,
			Private: bind.Propagation == oci.Private || bind.Propagation == oci.Unbindable,
		})
	}
	p.key = r.key(p)
	return p, nil
}

// makeRoom sees to it that the id is free. What an unfinished create has left
// under it is adopted, if that was the same one, or cleaned up.
func (r *Runtime) makeRoom(ctx context.Context, p *plan) error {
	rec, err := r.Store.Container(p.ID)
	if errors.Is(err, state.ErrNotExist) {
		r.giveUpRecordedRoom(ctx, p.ID, p.sandbox)
		return r.Store.RemoveUnclaimed(p.ID)
	}
	if err != nil {
		return err
	}
	if _, ok := r.derive(rec); ok {
		return state.ErrExist
	}
	if r.adopt(ctx, p, rec) {
		return nil
	}
	if rec.Sandbox != p.sandbox {
		r.giveUpRoom(ctx, rec.Sandbox, rec.ID)
	}
	if err := failpoint.Here(failpoint.CreateEvict); err != nil {
		return err
	}
	return r.clean(ctx, rec)
}

// forget removes the records of a container.
func (r *Runtime) forget(id string) error {
	if err := r.Store.RemoveContainer(id); err != nil {
		return err
	}
	return r.Store.RemoveUnclaimed(id)
}

// build makes the container step by step, and pushes onto undo how each step
// is taken back.
func (r *Runtime) build(ctx context.Context, p *plan, undo *cleanup) (*os.Process, error) {
	self, err := state.Self()
	if err != nil {
		return nil, err
	}
	boot, err := state.BootID()
	if err != nil {
		return nil, err
	}
	spec := p.bundle.Spec
	rec := &state.Container{
		ID: p.ID, Sandbox: p.sandbox, Bundle: p.bundle.Dir, Rootfs: p.bundle.Rootfs,
		OCIVersion: spec.Version, Annotations: spec.Annotations,
		Status: lifecycle.Creating, Creator: self, Created: time.Now().UTC(), BootID: boot,
		Terminal: spec.Process.Terminal, SystemdCgroup: p.SystemdCgroup, Process: p.process, Hooks: p.hooks,
		Notify: r.NotifySocket != "",
	}
	if rec.Resources, err = p.bundle.Resources(); err != nil {
		return nil, err
	}
	if spec.Linux != nil {
		rec.CgroupsPath = spec.Linux.CgroupsPath
	}
	if p.adopted != nil {
		rec.Cgroup = p.adopted.Cgroup
	}
	p.record = rec
	if err := step(ctx, failpoint.CreateRecord); err != nil {
		return nil, err
	}
	if err := r.Store.SaveContainer(rec); err != nil {
		return nil, fmt.Errorf("record container %s: %w", p.ID, err)
	}
	undo.pushSandbox(func(ctx context.Context) error { return r.forgetCreate(ctx, p) })
	if err := forgetOOM(p.bundle.Dir); err != nil {
		return nil, err
	}

	span := trace.Begin(ctx, trace.Phase, "make the cgroups")
	p.place, err = r.newPlace(rec, cgroup.LimitsOf(p.bundle.Limits(), p.role == oci.Single), undo)
	span.End()
	if err != nil {
		return nil, err
	}
	// Beside the sandbox, which need not have to boot.
	begun := r.beginShim(ctx, p)
	err = r.claimSandbox(ctx, p, undo)
	undo.push(func(ctx context.Context) error { return r.endShim(ctx, p, begun) })
	// The claim goes first when things are undone: the monitor then ends by itself, if
	// this was the only one, and has the guest and the shim end the container.
	undo.pushSandbox(func(ctx context.Context) error { return r.abandon(ctx, p) })
	if err != nil {
		return nil, err
	}

	proc, err := r.makeInGuest(ctx, p, begun)
	if err != nil {
		return nil, r.explain(ctx, p, err)
	}
	if rec.Shim, err = state.FindProcess(proc.Pid); err != nil {
		return nil, fmt.Errorf("the container's shim has died: %w", err)
	}
	if err := step(ctx, failpoint.CreateHooks); err != nil {
		return nil, err
	}
	span = trace.Begin(ctx, trace.Phase, "hooks")
	err = r.runCreateHooks(ctx, rec)
	span.End()
	if err != nil {
		return nil, err
	}
	if err := step(ctx, failpoint.CreateRecordCreated); err != nil {
		return nil, err
	}
	rec.Status = lifecycle.Created
	if err := r.Store.SaveContainer(rec); err != nil {
		return nil, fmt.Errorf("record container %s: %w", p.ID, err)
	}
	if err := step(ctx, failpoint.CreateClaim); err != nil {
		return nil, err
	}
	if _, err := p.claim.Call(ctx, &monitor.Request{Op: monitor.OpClaimed, Container: p.ID}, nil); err != nil {
		return nil, fmt.Errorf("claim container %s: %w", p.ID, err)
	}
	if err := step(ctx, failpoint.CreatePidFile); err != nil {
		return nil, err
	}
	if err := writePidFile(p.PidFile, proc.Pid); err != nil {
		return nil, err
	}
	return proc, failpoint.Here(failpoint.CreateDone)
}

// oomName is the file in the bundle by which engines know that the container
// has had too little memory (conmon).
const oomName = "oom"

// forgetOOM removes the file that an earlier container of the same bundle has
// left. One with something in it is not ours.
func forgetOOM(bundle string) error {
	path := filepath.Join(bundle, oomName)
	info, err := os.Lstat(path)
	if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		err = os.Remove(path)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// makeInGuest tells the container's shim what to do and waits until it has made the
// container in the guest.
func (r *Runtime) makeInGuest(ctx context.Context, p *plan, begun *begunShim) (*os.Process, error) {
	spec := p.bundle.Spec
	cfg := &shim.Config{
		Container:  p.ID,
		SandboxDir: r.Store.SandboxDir(p.sandbox),
		Spec:       p.guest.Spec, Share: p.share, Disks: p.guest.Disks, Image: p.Image,
		// Not by the container's id: a socket's name must be short (unix(7)).
		ShareSocket: "share-" + strconv.Itoa(os.Getpid()) + ".sock",
		Terminal:    spec.Process.Terminal, Loopback: p.netns == "",
		Demand:        p.demand,
		OOMFile:       filepath.Join(p.bundle.Dir, oomName),
		CreateTimeout: r.Config.Runtime.CreateTimeout.Std(),
		FlushTimeout:  r.Config.Runtime.FlushTimeout.Std(),
	}
	if p.role != oci.Sandbox { // the infrastructure of a pod tells nothing about its containers
		cfg.OOMScore = spec.Process.OOMScoreAdj
	}
	if size := spec.Process.ConsoleSize; size != nil {
		cfg.Width, cfg.Height = uint16(size.Width), uint16(size.Height)
	}
	proc, conn, err := begun.wait()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := p.place.enter(ctx, proc.Pid); err != nil {
		return nil, err
	}
	if err := step(ctx, failpoint.CreateBriefShim); err != nil {
		return nil, err
	}
	rep, err := r.briefShim(ctx, conn, cfg, p.ConsoleSocket)
	if err != nil {
		return nil, fmt.Errorf("unable to start container process: %w", err)
	}
	r.notice(rep.Notices)
	return proc, nil
}

// explain adds to the failure of a create why its monitor has ended, if it has and
// has said why.
func (r *Runtime) explain(ctx context.Context, p *plan, err error) error {
	sb, openErr := r.Store.Sandbox(p.sandbox)
	if openErr != nil || sb.Monitor.Alive() && !sb.Monitor.Ending() {
		return err
	}
	_, why := p.claim.Answer(ctx, monitor.OpSandbox) // it is there, or the end of the connection
	if why == nil || errors.Is(why, monitor.ErrGone) {
		return err
	}
	return fmt.Errorf("%w: %w", err, why)
}

// shimStdio is the stdio that goes to a shim: none where a terminal goes
// through a console socket, as callers then wait for the end of the command's.
func shimStdio(consoleSocket string, stdin, stdout, stderr *os.File) [3]*os.File {
	if consoleSocket != "" {
		return [3]*os.File{}
	}
	return [3]*os.File{stdin, stdout, stderr}
}

// briefShim hands a new shim its configuration and waits for its report.
func (r *Runtime) briefShim(ctx context.Context, conn *monitor.Conn, cfg *shim.Config, consoleSocket string) (*monitor.Reply, error) {
	var console *os.File
	if consoleSocket != "" {
		if err := step(ctx, failpoint.CreateConsole); err != nil {
			return nil, err
		}
		c, err := net.DialUnix("unix", nil, &net.UnixAddr{Net: "unix", Name: consoleSocket})
		if err != nil {
			return nil, fmt.Errorf("console socket: %w", err)
		}
		defer c.Close()
		if console, err = c.File(); err != nil {
			return nil, fmt.Errorf("console socket: %w", err)
		}
		defer console.Close()
	}
	defer trace.Begin(ctx, trace.Call, "shim begin").End()
	cfg.Trace = trace.From(ctx).Path()
	if err := conn.Send(cfg, console); err != nil {
		return nil, fmt.Errorf("the shim has died: %w", err)
	}
	if err := step(ctx, failpoint.CreateAwaitShim); err != nil {
		return nil, err
	}
	var rep *monitor.Reply
	var err error
	if cfg.Exec {
		rep, err = conn.AnswerInTurn(ctx, monitor.OpExec, cfg.CallTimeout, func() {})
	} else {
		rep, err = conn.Answer(ctx, monitor.OpCreate)
	}
	switch {
	case errors.Is(err, monitor.ErrGone):
		return nil, errors.New("the shim has died")
	case rep == nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, fmt.Errorf("create: not done after %s (create_timeout)", cfg.CreateTimeout)
	}
	return rep, err
}

// writePidFile writes the bare number, and renames it into place since callers
// watch for the name.
func writePidFile(path string, pid int) error {
	if path == "" {
		return nil
	}
	dir, name := filepath.Split(path)
	tmp := filepath.Join(dir, "."+name+"."+strconv.Itoa(os.Getpid()))
	err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write pid file: %w", err)
	}
	return nil
}
