package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/crun"
	"github.com/vc-runtime/vc-runtime/agent/mountpoint"
	"github.com/vc-runtime/vc-runtime/agent/spans"
	"github.com/vc-runtime/vc-runtime/agent/timens"
)

// initName is the name of a container's init in a request.
const initName = ""

// undoWait bounds the undoing of a create that failed.
const undoWait = 20 * time.Second

// container is one container of the guest, from the begin of its creation to
// the end of its removal.
type container struct {
	name  string // of this creation alone
	id    string // for people, hooks and other containers
	dir   string // bundle; the share is mounted below it
	group Group
	host  *Server

	removing chan struct{} // closed when a removal has begun: ends calls in flight
	teardown chan struct{} // holds one token: the right to tear down

	// Written by create; nil where there is none.
	time   *timens.Namespace
	notify *notifier
	mounts *mountNamespace

	mu    sync.Mutex
	gone  bool                // guarded by mu; removing is closed
	procs map[string]*process // guarded by mu
	calls sync.WaitGroup      // calls in flight; Add under mu while not gone
}

func (s *Server) newContainer(name, id string) *container {
	c := &container{
		name: name, id: id, host: s,
		dir:      filepath.Join(s.cfg.Dir, name),
		group:    s.cfg.Group(name),
		removing: make(chan struct{}),
		teardown: make(chan struct{}, 1),
		procs:    map[string]*process{},
	}
	c.teardown <- struct{}{}
	return c
}

// inRuntime is how the guest's runtime knows it.
func (c *container) inRuntime() crun.Container { return crun.Container{Name: c.name, ID: c.id} }

// isGone reports whether a removal has begun.
func (c *container) isGone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

func (c *container) share() string { return filepath.Join(c.dir, "share") }

// layers is where a layered rootfs and what it is made of are mounted.
func (c *container) layers() string { return filepath.Join(c.dir, "layers") }

// begin registers a call that uses the container. The context it gives ends
// when the container is removed; the function must be called at the end.
func (c *container) begin(ctx context.Context) (context.Context, func(), error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return nil, nil, fmt.Errorf("container %s is being removed: %w", c.id, syscall.ESRCH)
	}
	c.calls.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-c.removing:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); c.calls.Done() }, nil
}

// addProcess reserves the name of a process.
func (c *container) addProcess(name string, p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.procs[name]; ok {
		return fmt.Errorf("process %q of container %s: %w", name, c.id, syscall.EEXIST)
	}
	c.procs[name] = p
	return nil
}

func (c *container) dropProcess(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.procs, name)
}

// dropServed forgets a process whose end has been told, once its output has been
// as well: a container may have any number of them in its life.
func (c *container) dropServed(name string, p *process) {
	select {
	case <-p.io.served():
		c.dropProcess(name)
	case <-c.removing:
	}
}

func (c *container) process(name string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.procs[name]
	if !ok {
		return nil, fmt.Errorf("process %q of container %s: %w", name, c.id, syscall.ESRCH)
	}
	return p, nil
}

// create does the work of CreateContainer. What it has made when it fails is
// undone by remove.
func (c *container) create(ctx context.Context, req *api.CreateContainerRequest) (int, error) {
	var joined pidNamespaces
	defer joined.close()
	at := places{
		share: c.share(), rootfs: filepath.Join(c.share(), rootSource), cgroup: c.host.cfg.CgroupsPath(c.name),
		files: req.GetFiles(), texts: c.files(), user: req.GetUser(),
		pod:          c.host.cfg.Pod,
		notify:       c.listen,
		pidNamespace: func(name string) (string, error) { return joined.open(c.host, name) },
	}
	if req.GetRoot() != nil {
		at.rootfs = filepath.Join(c.layers(), rootSource)
	}
	// Everybody may pass: in a user namespace crun is not root here.
	if err := os.MkdirAll(c.share(), 0o711); err != nil {
		return 0, err
	}
	if err := c.writeFiles(req.GetFiles()); err != nil {
		return 0, err
	}
	// Before the wait for devices, which the host plugs meanwhile.
	span := spans.Begin(ctx, "confine the spec")
	spec, err := confineSpec(req.GetSpec(), at, req.GetStdio().GetTerminal())
	span.End()
	if err != nil {
		return 0, err
	}
	if c.time, err = spec.clocks.namespace(); err != nil {
		return 0, err
	}
	if err := c.mount(ctx, req); err != nil {
		return 0, err
	}
	if at.devices, err = c.devices(ctx, req.GetDisks()); err != nil {
		return 0, err
	}
	at.tree = mountpoint.New(at.rootfs)
	span = spans.Begin(ctx, "prepare the rootfs")
	err = spec.fit(at)
	span.End()
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), spec.config, 0o600); err != nil {
		return 0, err
	}
	pid, err := c.spawn(ctx, initName, req.GetStdio(), spec, func(p crun.Process) (*crun.Started, error) {
		return c.host.cfg.Runtime.Create(ctx, c.inRuntime(), c.dir, p)
	})
	if err != nil {
		return 0, err
	}
	c.mounts, err = openMountNamespace(pid)
	return pid, err
}

// mount mounts what the rootfs is in, when its devices are there.
func (c *container) mount(ctx context.Context, req *api.CreateContainerRequest) error {
	if tag := req.GetShareTag(); tag != "" {
		span := spans.Begin(ctx, "mount the share")
		err := c.host.cfg.Shares.Mount(ctx, tag, c.share())
		span.End()
		if err != nil {
			return err
		}
	}
	root := req.GetRoot()
	if root == nil {
		return nil
	}
	defer spans.Begin(ctx, "mount the layers").End()
	return c.host.cfg.Disks.MountLayers(ctx, root.GetLayers(), root.GetUpper(), c.layers())
}

// listen makes the socket for sd_notify(3), once, and gives its folder.
func (c *container) listen() (dir string, err error) {
	if c.notify == nil {
		c.notify, err = newNotifier(filepath.Join(c.dir, notifySource))
	}
	if err != nil {
		return "", err
	}
	return c.notify.dir, nil
}

// exec does the work of ExecProcess.
func (c *container) exec(ctx context.Context, req *api.ExecProcessRequest) (int, error) {
	init, err := c.process(initName)
	if err != nil {
		return 0, err
	}
	child, ok := init.running()
	if !ok {
		return 0, fmt.Errorf("container %s is not running: %w", c.id, syscall.ESRCH)
	}
	span := spans.Begin(ctx, "confine the process")
	spec, err := confineProcess(req.GetSpec(), req.GetStdio().GetTerminal(), func() ([]byte, error) { return passwdOf(child.Pid) })
	span.End()
	if err != nil {
		return 0, err
	}
	pid, err := c.spawn(ctx, req.GetProcess(), req.GetStdio(), spec, func(p crun.Process) (*crun.Started, error) {
		return c.host.cfg.Runtime.Exec(ctx, c.inRuntime(), spec.config, p)
	})
	if _, ok := init.running(); err != nil && !ok {
		return 0, fmt.Errorf("container %s has ended: %w (%v)", c.id, syscall.ESRCH, err)
	}
	return pid, err
}

// spawn makes a process's streams, starts it, and keeps it under its name.
func (c *container) spawn(ctx context.Context, name string, want *api.Stdio, spec *guestSpec, start func(crun.Process) (*crun.Started, error)) (int, error) {
	streams, fds, err := newStdio(want)
	if err != nil {
		return 0, err
	}
	p := newProcess(streams)
	if err := c.addProcess(name, p); err != nil {
		closeFds(fds)
		streams.close()
		return 0, err
	}
	st, err := start(crun.Process{Arg0: spec.arg0, Time: c.time, Terminal: want.GetTerminal(), Stdio: fds})
	closeFds(fds)
	if err == nil {
		err = spec.priority.give(st)
	}
	if st != nil {
		life := spans.Begin(spans.With(ctx, c.host.cfg.Spans), strings.TrimSpace("process "+name)) // it outlasts this lane's call
		p.started(life, st.Child, func() bool { return c.group.OOMKills() > 0 })
		if p.unwanted.Load() {
			err = errors.Join(err, fmt.Errorf("process %q was killed while it started: %w", name, syscall.ESRCH))
		}
	}
	if err != nil {
		streams.close()
		if st == nil {
			c.dropProcess(name)
			p.failed()
		} else {
			err = errors.Join(err, ignoreGone(st.Child.Signal(syscall.SIGKILL)))
		}
		return 0, err
	}
	if st.Console != nil {
		streams.setConsole(st.Console)
	}
	return st.Child.Pid, nil
}

// signal sends a signal to a process. One that is just being started ends with
// KILL as soon as it is there: its caller may have given up.
func (c *container) signal(name string, sig syscall.Signal) error {
	p, err := c.process(name)
	if err != nil {
		return err
	}
	if sig == syscall.SIGKILL {
		p.unwanted.Store(true)
	}
	child, ok := p.running()
	if !ok {
		return fmt.Errorf("process %q of container %s has ended: %w", name, c.id, syscall.ESRCH)
	}
	return child.Signal(sig)
}

// signalAll sends a signal to every process of the container. Those that end
// meanwhile are passed over.
func (c *container) signalAll(sig syscall.Signal) error {
	if sig == syscall.SIGKILL {
		return c.group.Kill()
	}
	pids, err := c.group.Pids()
	if err != nil {
		return err
	}
	if len(pids) == 0 {
		return fmt.Errorf("container %s has no processes: %w", c.id, syscall.ESRCH)
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, ignoreGone(syscall.Kill(pid, sig)))
	}
	return errors.Join(errs...)
}

func ignoreGone(err error) error {
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// remove ends everything the container consists of. Calls in flight are
// cancelled. It can be repeated after a failure.
func (c *container) remove(ctx context.Context) error {
	c.mu.Lock()
	if !c.gone {
		c.gone = true
		close(c.removing)
	}
	c.mu.Unlock()
	select {
	case <-c.teardown:
	case <-ctx.Done():
		return fmt.Errorf("remove container %s: %w", c.id, ctx.Err())
	}
	defer func() { c.teardown <- struct{}{} }()

	err := errors.Join(
		c.group.Kill(),
		c.waitCalls(ctx),
		c.group.Kill(), // what a call in flight has made since
		c.group.WaitEmpty(ctx),
		c.waitProcesses(ctx),
		c.closeStreams(),
		c.host.cfg.Runtime.Forget(c.inRuntime()),
	)
	if err == nil {
		err = c.removeFilesystems(ctx)
	}
	if err != nil {
		return fmt.Errorf("remove container %s: %w", c.id, err)
	}
	return nil
}

// removeFilesystems takes the container's mounts away, when nobody in the guest uses
// them any more. Before that they must stay: somebody may wait for an answer of the
// host's file server that does not come, and then the kernel waits for that, too,
// when it unmounts, and holds a lock over it that every share of the guest needs
// (fs/fuse/virtio_fs.c, virtio_fs_conn_destroy, Linux 6.1).
func (c *container) removeFilesystems(ctx context.Context) error {
	for _, step := range []func(context.Context) error{c.releaseMounts, c.unmount, c.group.Remove, c.removeDir} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// unmount takes the container's files away: the layers first, on which binds of
// the share may lie.
func (c *container) unmount(ctx context.Context) error {
	if c.host.cfg.Disks != nil {
		if err := c.host.cfg.Disks.UnmountLayers(ctx, c.layers()); err != nil {
			return err
		}
	}
	return c.host.cfg.Shares.Unmount(ctx, c.share())
}

func (c *container) waitCalls(ctx context.Context) error {
	idle := make(chan struct{})
	go func() {
		c.calls.Wait()
		close(idle)
	}()
	return wait(ctx, idle, "calls in flight")
}

func (c *container) waitProcesses(ctx context.Context) error {
	for _, p := range c.started() {
		if err := wait(ctx, p.done, "processes"); err != nil {
			return err
		}
	}
	return nil
}

func wait(ctx context.Context, done <-chan struct{}, what string) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", what, ctx.Err())
	}
}

// started lists the processes that have been started.
func (c *container) started() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ps []*process
	for _, p := range c.procs {
		select {
		case <-p.ready:
			ps = append(ps, p)
		default:
		}
	}
	return ps
}

func (c *container) closeStreams() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.procs {
		p.io.close()
	}
	return nil
}

// removeDir removes the bundle by name, since a share may still be mounted in
// it when an unmount has failed.
func (c *container) removeDir(context.Context) error {
	if c.time != nil {
		c.time.Close()
	}
	if err := errors.Join(c.notify.close(), c.removeFiles()); err != nil {
		return err
	}
	for _, path := range []string{filepath.Join(c.dir, "config.json"), c.share(), c.dir} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// runtime is what a container needs of the guest's OCI runtime.
var _ Runtime = (*crun.Runtime)(nil)
