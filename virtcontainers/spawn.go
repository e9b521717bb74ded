package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
)

// The hidden sub-commands. The root and the sandbox's id follow, for doctor and
// whoever else looks at the list of processes.
const (
	MonitorCommand = "monitor"
	ShimCommand    = "shim"
)

// spawnMonitor starts a sandbox's monitor, which boots the VM at once. The
// connection is the claim on p's container.
func (r *Runtime) spawnMonitor(ctx context.Context, p *plan) (*monitor.Conn, error) {
	if err := step(ctx, failpoint.CreateSandboxFolder); err != nil {
		return nil, err
	}
	dir, err := r.Store.MakeSandboxDir(p.sandbox)
	if err != nil {
		return nil, fmt.Errorf("make sandbox %s: %w", p.sandbox, err)
	}
	conn, proc, err := r.spawnMonitorIn(ctx, dir, p.sandbox)
	if err != nil {
		return nil, err
	}
	// Before it starts anything.
	at, err := r.recordMonitor(ctx, p, proc.Pid)
	if err == nil {
		err = step(ctx, failpoint.CreateBriefMonitor)
	}
	if err == nil {
		err = conn.Send(r.sandboxRequest(ctx, p, at), nil)
	}
	if err != nil {
		conn.Close()
		return nil, errors.Join(fmt.Errorf("start the monitor: %w", err), proc.Kill())
	}
	return conn, nil
}

// sandboxRequest is what a monitor is told that is to be the sandbox's.
func (r *Runtime) sandboxRequest(ctx context.Context, p *plan, at json.RawMessage) *monitor.Request {
	return &monitor.Request{
		Op: monitor.OpSandbox, Container: p.ID, Trace: trace.From(ctx).Path(),
		Sandbox: &monitor.SandboxConfig{
			ID: p.sandbox, Root: r.Store.Root(), Exe: r.Exe, Config: *r.Config,
			Demand: p.podDemand, Cgroup: at,
			Key: string(p.key), OwnNetwork: p.netns == "",
		},
	}
}

// spawnMonitorIn starts a monitor whose folder is dir. The connection is the
// one on which it is told what for.
func (r *Runtime) spawnMonitorIn(ctx context.Context, dir, id string) (*monitor.Conn, *os.Process, error) {
	// The socket is there before the monitor is: connections wait for it.
	if err := step(ctx, failpoint.CreateSocket); err != nil {
		return nil, nil, err
	}
	l, err := monitor.Listen(dir, monitor.SocketName)
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	lf, err := l.File()
	if err != nil {
		return nil, nil, fmt.Errorf("monitor's socket: %w", err)
	}
	defer lf.Close()
	if err := step(ctx, failpoint.CreateSpawnMonitor); err != nil {
		return nil, nil, err
	}
	defer trace.Begin(ctx, trace.Spawn, "start the monitor").End()
	conn, proc, err := r.spawnConnected(spawnOptions{
		args: []string{MonitorCommand, r.Store.Root(), id}, files: []*os.File{nil, nil, nil, nil, lf},
		sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start the monitor: %w", err)
	}
	return conn, proc, nil
}

// recordMonitor is recordSandbox for a new monitor.
func (r *Runtime) recordMonitor(ctx context.Context, p *plan, pid int) (json.RawMessage, error) {
	mon, err := state.FindProcess(pid)
	if err != nil {
		return nil, err
	}
	boot, err := state.BootID()
	if err != nil {
		return nil, err
	}
	return r.recordSandbox(ctx, p, &state.Sandbox{ID: p.sandbox, Monitor: mon, BootID: boot, Created: time.Now().UTC()})
}

// recordSandbox records a sandbox and moves its processes to where they belong:
// into a cgroup of their own where it may outlive the container. It gives the
// record of the cgroup.
func (r *Runtime) recordSandbox(ctx context.Context, p *plan, sb *state.Sandbox) (json.RawMessage, error) {
	if err := step(ctx, failpoint.CreateRecordSandbox); err != nil {
		return nil, err
	}
	if err := r.Store.SaveSandbox(sb); err != nil {
		return nil, err
	}
	at := p.place
	if p.role == oci.Member {
		var err error
		if at, err = r.sandboxPlace(p.record, sb); err != nil {
			return nil, err
		}
	}
	if at.cg == nil {
		return nil, nil
	}
	for _, proc := range []state.Process{sb.Monitor, sb.VM} {
		if proc.Pid == 0 {
			continue // it is not there yet
		}
		if err := at.enter(ctx, proc.Pid); err != nil {
			return nil, err
		}
	}
	return json.Marshal(at.cg)
}

// shimStart says in which surroundings a shim starts.
type shimStart struct {
	sandbox string // id, for whoever looks at the list of processes
	// container is the id of the one that it is the shim of, for endStray; "" for an
	// exec.
	container string
	stdio     [3]*os.File
	// netns is the path of the network namespace to be in; "" is a fresh one
	// where ownPidNS is set, and the caller's otherwise.
	netns string
	// ownPidNS makes the shim PID 1 of a pid namespace: a container's.
	ownPidNS bool
}

// startShim starts a shim and gives the connection over which it is briefed.
func (r *Runtime) startShim(ctx context.Context, s shimStart) (*os.Process, *monitor.Conn, error) {
	sys := &syscall.SysProcAttr{Setsid: true}
	if s.ownPidNS {
		sys.Cloneflags |= unix.CLONE_NEWPID
		if s.netns == "" {
			sys.Cloneflags |= unix.CLONE_NEWNET
		}
	}
	args := []string{ShimCommand, r.Store.Root(), s.sandbox}
	if s.container != "" {
		args = append(args, s.container)
	}
	defer trace.Begin(ctx, trace.Spawn, "start the shim").End()
	conn, proc, err := r.spawnConnected(spawnOptions{
		args: args, netns: s.netns, sys: sys,
		files: []*os.File{s.stdio[0], s.stdio[1], s.stdio[2], nil},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("start the shim: %w", err)
	}
	return proc, conn, nil
}

// begunShim is a container's shim whose process is being started.
type begunShim struct {
	started chan struct{} // closed when what follows is set
	proc    *os.Process
	conn    *monitor.Conn // over which it is briefed
	err     error
}

// beginShim has the shim of p's container started. It waits for nothing: a process
// of its size, with namespaces of its own, takes its time. Until it is briefed a shim
// does nothing; it ends with this process.
func (r *Runtime) beginShim(ctx context.Context, p *plan) *begunShim {
	s := &begunShim{started: make(chan struct{})}
	go func() { // ends with the start
		defer close(s.started)
		if s.err = step(ctx, failpoint.CreateSpawnShim); s.err != nil {
			return
		}
		s.proc, s.conn, s.err = r.startShim(ctx, shimStart{
			sandbox: p.sandbox, container: p.ID, stdio: shimStdio(p.ConsoleSocket, p.Stdin, p.Stdout, p.Stderr), netns: p.netns, ownPidNS: true,
		})
	}()
	return s
}

// wait gives the process, and the connection over which it is briefed.
func (s *begunShim) wait() (*os.Process, *monitor.Conn, error) {
	<-s.started
	return s.proc, s.conn, s.err
}

// shimPatience is how long a shim of a create that is given up has to end by itself.
func (r *Runtime) shimPatience() time.Duration {
	return min(r.Config.Runtime.KillTimeout.Std(), r.Config.Runtime.TeardownTimeout.Std()/2)
}

// endShim ends the shim of a create that is given up, the claim first: the monitor
// has the guest let go of the files that the shim serves, and then tells the shim. A
// guest that is in the middle of something that it does with them would wait for ever
// for the answer of a file server that has gone. What takes longer than a KILL may
// take does not keep it, nor what takes half of what delete by force gives a create.
func (r *Runtime) endShim(ctx context.Context, p *plan, s *begunShim) error {
	proc, conn, err := s.wait()
	if err != nil {
		return nil // it has been told
	}
	conn.Close()
	p.closeClaim()
	patience := r.shimPatience()
	if p.unheard {
		patience = 0
	}
	return endChild(ctx, proc, patience)
}

// endStray sees to the end of the shim of a create that was killed before it had
// recorded one, and put it into the container's cgroup. Such a shim ends by itself,
// since nobody is left to brief it, but not at once; what takes longer than a KILL may
// take is killed.
func (r *Runtime) endStray(ctx context.Context, rec *state.Container) error {
	if rec.Shim.Pid != 0 {
		return nil
	}
	all, err := readProcesses()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range all {
		if root, _ := rootAndID(p.argv); p.is(ShimCommand) && root == r.Store.Root() && slices.Equal(p.argv[4:], []string{rec.ID}) && p.sees(root) {
			wait, cancel := context.WithTimeout(ctx, r.shimPatience())
			if p.Wait(wait) != nil {
				errs = append(errs, p.Kill(ctx))
			}
			cancel()
		}
	}
	return errors.Join(errs...)
}

type spawnOptions struct {
	args  []string
	files []*os.File // nil is /dev/null
	netns string     // path of a network namespace, or "" for the caller's
	sys   *syscall.SysProcAttr
}

// spawn starts this program again as one of its hidden sub-commands. It gets
// no environment: nothing there is meant for it.
func (r *Runtime) spawn(o spawnOptions) (*os.Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	files := make([]*os.File, len(o.files))
	for i, f := range o.files {
		if files[i] = f; f == nil || !isOpen(f) {
			files[i] = null
		}
	}
	attr := &os.ProcAttr{Dir: "/", Env: failpoint.Environ(), Files: files, Sys: o.sys}
	argv := append([]string{"vc-runtime"}, o.args...)
	if o.netns == "" {
		return os.StartProcess(r.Exe, argv, attr)
	}
	ns, err := os.Open(o.netns)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer ns.Close()
	type result struct {
		proc *os.Process
		err  error
	}
	c := make(chan result, 1)
	go func() {
		// A child starts in the namespace of the thread that makes it. The
		// thread is of no other use afterwards: it ends with the goroutine.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			c <- result{nil, fmt.Errorf("enter network namespace %s: %w", o.netns, err)}
			return
		}
		proc, err := os.StartProcess(r.Exe, argv, attr)
		c <- result{proc, err}
	}()
	res := <-c
	return res.proc, res.err
}

// spawnConnected is spawn with a connection, over which the process is told what for:
// the fourth of its files, in place of what is there.
func (r *Runtime) spawnConnected(o spawnOptions) (*monitor.Conn, *os.Process, error) {
	conn, child, err := monitor.Pair()
	if err != nil {
		return nil, nil, err
	}
	defer child.Close()
	o.files[3] = child
	proc, err := r.spawn(o)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, proc, nil
}

// isOpen tells a usable descriptor from one that the caller had closed.
func isOpen(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil
}

// endChild reaps a child, and kills it where it does not end by itself in time.
func endChild(ctx context.Context, proc *os.Process, patience time.Duration) error {
	done := make(chan struct{})
	go func() { // an error says that it has been reaped already
		proc.Wait()
		close(done)
	}()
	if patience > 0 {
		over := time.NewTimer(patience)
		defer over.Stop()
		select {
		case <-done:
			return nil
		case <-over.C:
		case <-ctx.Done():
		}
	}
	if err := proc.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill pid %d: %w", proc.Pid, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of pid %d: %w", proc.Pid, ctx.Err())
	}
}

// notice tells the user something that is no failure. Where stderr is not a
// terminal it may be the container's own, and the log has to do.
func (r *Runtime) notice(texts []string) {
	_, err := unix.IoctlGetTermios(int(r.Stderr.Fd()), unix.TCGETS)
	for _, t := range texts {
		r.Log.Warn(t)
		if err == nil {
			fmt.Fprintln(r.Stderr, "vc-runtime:", t)
		}
	}
}
