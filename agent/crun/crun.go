// Package crun runs the guest's OCI runtime, a stock crun, as a program. It is
// used by the agent only.
package crun

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/reaper"
	"github.com/vc-runtime/vc-runtime/agent/spans"
	"github.com/vc-runtime/vc-runtime/agent/timens"
)

// maxLog bounds how much of crun's log is read, in bytes.
const maxLog = 64 << 10

// Runtime is how crun is called.
type Runtime struct {
	Path    string // of the program; Seal changes it
	State   string // has a folder of crun's own state for each container
	Scratch string // folder for the files of single calls
	Reaper  *reaper.Reaper

	sealed *os.File // keeps the sealed program open
}

// Container is a container as crun is told of it.
type Container struct {
	Name string // of the folder of its state: nobody else's, whatever its id is
	ID   string // that hooks are told, and errors have
}

// Process is what Create and Exec need to know of a process besides its spec.
type Process struct {
	Arg0 string // for the text of errors
	// Time is where crun is started, and with it the process; nil for where the
	// agent is. crun 1.8 cannot make a time namespace together with a pid
	// namespace: it forks once more to enter it, and then the first process of
	// the pid namespace ends.
	Time     *timens.Namespace
	Terminal bool
	Stdio    [3]int // file descriptors; not used with Terminal
}

// Started is a process that crun has left to us.
type Started struct {
	Child   *reaper.Child
	Console *os.File // master of the terminal, nil without one; non-blocking
}

// Create makes a container of the bundle, up to the point before its process
// execs.
func (r *Runtime) Create(ctx context.Context, id Container, bundle string, p Process) (*Started, error) {
	// Everybody may pass: in a user namespace crun is not root here.
	if err := os.Mkdir(r.root(id), 0o711); err != nil {
		return nil, err
	}
	c, err := r.newCall("create", id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return c.spawn(ctx, p, "--bundle", bundle, id.ID)
}

// root is the folder of a container's state.
func (r *Runtime) root(id Container) string { return filepath.Join(r.State, id.Name) }

// Exec starts a further process in a container. spec is an OCI process object
// as JSON.
func (r *Runtime) Exec(ctx context.Context, id Container, spec []byte, p Process) (*Started, error) {
	c, err := r.newCall("exec", id)
	if err != nil {
		return nil, err
	}
	defer c.close()
	if err := os.WriteFile(c.path("process.json"), spec, 0o600); err != nil {
		return nil, err
	}
	return c.spawn(ctx, p, "--detach", "--process", c.path("process.json"), id.ID)
}

// Start lets a created container's process exec. It does what `crun start`
// does (libcrun_status_write_exec_fifo), without the cost of a program: the
// process waits for a byte in a fifo of crun's state, which is unlinked so that
// a second start fails.
func (r *Runtime) Start(_ context.Context, id Container) error {
	path := filepath.Join(r.root(id), id.ID, "exec.fifo")
	// Nobody reads the fifo (ENXIO) when the process has ended.
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("container %s has been started before: %w", id.ID, unix.EINVAL)
	case errors.Is(err, unix.ENXIO):
		return fmt.Errorf("container %s is not running: %w", id.ID, unix.ESRCH)
	case err != nil:
		return fmt.Errorf("start container %s: %w", id.ID, err)
	}
	defer unix.Close(fd)
	if err := unix.Unlink(path); err != nil {
		return fmt.Errorf("start container %s: %w", id.ID, err)
	}
	if _, err := unix.Write(fd, []byte{0}); err != nil {
		return fmt.Errorf("start container %s: %w", id.ID, err)
	}
	return nil
}

// Update sets limits; resources is an OCI LinuxResources object as JSON.
func (r *Runtime) Update(ctx context.Context, id Container, resources []byte) error {
	c, err := r.newCall("update", id)
	if err != nil {
		return err
	}
	defer c.close()
	if err := os.WriteFile(c.path("resources.json"), resources, 0o600); err != nil {
		return err
	}
	return c.run(ctx, Process{Stdio: [3]int{-1, -1, -1}}, "--resources", c.path("resources.json"), id.ID)
}

// Forget deletes crun's state of a container whose processes are dead. It does
// what `crun delete` would do besides killing and removing the cgroup, without
// the cost of a program.
func (r *Runtime) Forget(id Container) error {
	if err := os.RemoveAll(r.root(id)); err != nil {
		return fmt.Errorf("remove crun state of %s: %w", id.ID, err)
	}
	return nil
}

// call is one run of crun, with a folder for its files.
type call struct {
	rt   *Runtime
	op   string
	root string // folder of the container's state
	dir  string
}

func (r *Runtime) newCall(op string, id Container) (*call, error) {
	dir, err := os.MkdirTemp(r.Scratch, op)
	if err != nil {
		return nil, err
	}
	return &call{rt: r, op: op, root: r.root(id), dir: dir}, nil
}

func (c *call) path(name string) string { return filepath.Join(c.dir, name) }

// close removes the call's folder, which holds plain files and a socket.
func (c *call) close() {
	for _, name := range []string{"log", "pid", "process.json", "resources.json", "console.sock"} {
		os.Remove(c.path(name))
	}
	os.Remove(c.dir)
}

// spawn runs a command of crun that leaves a process behind, and claims it.
func (c *call) spawn(ctx context.Context, p Process, args ...string) (*Started, error) {
	watch := c.rt.Reaper.Watch()
	defer watch.Close()

	flags := []string{"--pid-file", c.path("pid")}
	var con *consoleSocket
	if p.Terminal {
		var err error
		if con, err = listenConsole(c.path("console.sock")); err != nil {
			return nil, err
		}
		defer con.close()
		flags = append(flags, "--console-socket", c.path("console.sock"))
		p.Stdio = [3]int{-1, -1, -1}
	}
	if err := c.run(ctx, p, append(flags, args...)...); err != nil {
		return nil, err
	}
	pid, err := readPid(c.path("pid"))
	if err != nil {
		return nil, err
	}
	s := &Started{Child: watch.Claim(pid)}
	if con != nil {
		if s.Console, err = con.receive(ctx); err != nil {
			return s, err
		}
	}
	return s, nil
}

// run runs crun and waits for it. A negative descriptor is /dev/null.
func (c *call) run(ctx context.Context, p Process, args ...string) error {
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer unix.Close(null)
	fds := p.Stdio[:]
	for i, fd := range fds {
		if fd < 0 {
			fds[i] = null
		}
	}
	argv := append([]string{
		"crun", "--root", c.root, "--cgroup-manager=cgroupfs",
		"--log", c.path("log"), "--log-format=json", c.op,
	}, args...)
	defer spans.Spawn(ctx, "crun "+c.op).End()
	cmd := reaper.Command{
		Path: c.rt.Path, Args: argv, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Dir: "/", Fds: fds,
	}
	if p.Time != nil {
		cmd.Fork = p.Time.ForkExec
	}
	child, err := c.rt.Reaper.Start(cmd)
	if err != nil {
		return err
	}
	select {
	case <-child.Done():
	case <-ctx.Done():
		// Whatever it has made so far is undone by the caller.
		if err := child.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill crun %s: %w", c.op, err)
		}
		<-child.Done()
		return fmt.Errorf("crun %s: %w", c.op, ctx.Err())
	}
	if child.Code() == 0 {
		return nil
	}
	log, _ := readBounded(c.path("log"))
	if len(log) == 0 {
		return &Error{Op: c.op, Text: fmt.Sprintf("exit code %d without a reason", child.Code())}
	}
	return translate(c.op, p.Arg0, log)
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, maxLog)
	n, err := f.Read(buf)
	return buf[:n], err
}

func readPid(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read crun's pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("crun's pid file holds %q", b)
	}
	return pid, nil
}
