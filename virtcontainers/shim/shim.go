// Package shim is the host process that stands for a container, or for one
// detached exec: its pid is in the pid-file, it copies the stdio or the
// terminal, passes signals on, and exits with the process's code.
//
// The shim of a container is PID 1 of a pid namespace in which the
// container's file server is the only other process. The kernel ends a pid
// namespace with its PID 1 and lets that pid go only when all its processes
// have (pid_namespaces(7)): so the rootfs is released when the shim's pid is
// gone, also after a SIGKILL.
package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/disk"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/share"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
)

// Config is what the command tells the shim that it spawns.
type Config struct {
	Container string `json:"container"`
	// SandboxDir is the folder with the monitor's socket.
	SandboxDir string `json:"sandboxDir"`
	// Spec is the guest's config.json, or the process of an exec.
	Spec     []byte `json:"spec"`
	Terminal bool   `json:"terminal,omitempty"`
	// Exec makes it the shim of a further process, not of a container.
	Exec bool `json:"exec,omitempty"`
	// Share is what a container's shim serves; nil where that is nothing.
	Share *share.Config `json:"share,omitempty"`
	// Image is what a container's rootfs is made of where it is not shared.
	Image *monitor.Image `json:"image,omitempty"`
	// Disks are the block devices that a container gets.
	Disks []disk.Disk `json:"disks,omitempty"`
	// ShareSocket is the name that the file server's socket has in SandboxDir
	// for a moment.
	ShareSocket string `json:"shareSocket,omitempty"`
	// Loopback brings the loopback interface of the shim's fresh network
	// namespace up.
	Loopback bool `json:"loopback,omitempty"`
	// Width and Height are the first size of the terminal, in characters; 0
	// where the specification names none.
	Width  uint16 `json:"width,omitempty"`
	Height uint16 `json:"height,omitempty"`

	// Trace is the path of a trace to write into; "" for none.
	Trace string `json:"trace,omitempty"`
	// Demand, OOMFile and OOMScore are for the monitor: see monitor.Request. The
	// last one is for the file server as well.
	Demand   size.Demand `json:"demand,omitzero"`
	OOMFile  string      `json:"oomFile,omitempty"`
	OOMScore *int        `json:"oomScore,omitempty"`

	CreateTimeout time.Duration `json:"createTimeout,omitempty"` // of a container
	CallTimeout   time.Duration `json:"callTimeout,omitempty"`   // of an exec: for how long nothing may be heard of it
	FlushTimeout  time.Duration `json:"flushTimeout"`
}

// parentFD is where the command's end of the socket pair is inherited.
const parentFD = 3

// exitGone is the exit code where the container's true one cannot be known:
// its VM or its monitor died.
const exitGone = 128 + int(unix.SIGKILL)

// Main is the shim's process: it takes its Config from the command, answers
// with one monitor.Reply, and gives the exit code at the end.
//
// It is called on the main goroutine, which must be locked to the main thread:
// that is the one whose mount namespace is the process's to others.
func Main() int {
	main := mainThread{work: make(chan func())}
	var code int
	go func() {
		defer close(main.work)
		code = serve(main)
	}()
	for work := range main.work {
		work()
	}
	return code
}

// mainThread does work on the main thread.
type mainThread struct{ work chan func() }

func (m mainThread) do(work func() error) error {
	done := make(chan error)
	m.work <- func() { done <- work() }
	return <-done
}

// serve is the shim, but for what the main thread has to do itself.
func serve(main mainThread) int {
	debug.SetGCPercent(20) // small matters more than fast
	parent, err := monitor.FileConn(os.NewFile(parentFD, "parent"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "vc-runtime shim: started by hand: it is for vc-runtime's own use")
		return 1
	}
	signals := catchSignals()
	if failpoint.Here(failpoint.ShimAwait) != nil {
		return 1
	}
	var cfg Config
	console, err := parent.Receive(&cfg)
	if err != nil {
		return 1 // the command has died
	}
	ctx := context.Background()
	if cfg.Trace != "" {
		// A trace that cannot be written is no reason to fail.
		if t, err := trace.Open(cfg.Trace, "shim of "+cfg.Container, cfg.Container); err == nil {
			defer t.Close()
			ctx = trace.With(ctx, t)
		}
	}
	waiting := func() { parent.Send(&monitor.Reply{Waiting: true}, nil) }
	s, rep, err := begin(ctx, &cfg, console, waiting)
	if err == nil && !cfg.Exec {
		err = main.do(func() error { return share.Enter(cfg.Share, cfg.SandboxDir) })
	}
	if err == nil {
		err = failpoint.Here(failpoint.ShimReport)
	}
	if err != nil {
		parent.Send(&monitor.Reply{Failure: monitor.FailureOf(err)}, nil)
		return 1
	}
	parent.Send(rep, nil)
	parent.Close()
	defer trace.Begin(ctx, trace.Phase, "copy until the end").End()
	code := s.run(signals)
	s.Release() // or waits until it is done
	return code
}

// begin makes the container, or the exec'd process, and connects its streams. It
// calls waiting when others have had their turn before the process has its own.
func begin(ctx context.Context, cfg *Config, consoleSocket *os.File, waiting func()) (*Session, *monitor.Reply, error) {
	if err := failpoint.Here(failpoint.ShimBegin); err != nil {
		return nil, nil, err
	}
	stdio := StdioOf(cfg.Terminal, os.Stdin, os.Stdout, os.Stderr)
	req := &monitor.Request{Op: monitor.OpExec, Container: cfg.Container, Spec: cfg.Spec, Stdio: stdio}
	if !cfg.Exec {
		req.Op, req.Image, req.Disks = monitor.OpCreate, cfg.Image, cfg.Disks
		req.Demand, req.OOMFile, req.OOMScore = cfg.Demand, cfg.OOMFile, cfg.OOMScore
	}
	if cfg.Loopback {
		if err := failpoint.Here(failpoint.ShimLoopback); err != nil {
			return nil, nil, err
		}
		if err := loopbackUp(); err != nil {
			return nil, nil, err
		}
	}
	server, socket, err := startServer(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	monitor.SetOOMScore("self", monitor.OOMScore) // where that may not be, no harm is done
	if err := failpoint.Here(failpoint.ShimCreate); err != nil {
		return nil, nil, err
	}
	var s *Session
	var rep *monitor.Reply
	if cfg.Exec {
		s, rep, err = BeginExec(ctx, cfg.SandboxDir, req, cfg.CallTimeout, waiting)
	} else {
		s, rep, err = beginContainer(ctx, cfg, req, server, socket)
	}
	if err != nil {
		return nil, nil, err
	}
	s.FlushTimeout, s.GiveUpOutput = cfg.FlushTimeout, true
	s.Release = sync.OnceFunc(func() { endNamespace(ctx, s.served) })
	term := Terminal{Width: cfg.Width, Height: cfg.Height}
	if cfg.Terminal {
		if consoleSocket != nil {
			if err := failpoint.Here(failpoint.ShimConsole); err != nil {
				return nil, nil, err
			}
			if term.File, err = sendConsole(consoleSocket, cfg.Width, cfg.Height); err != nil {
				return nil, nil, err
			}
		} else {
			term.File = os.Stdin
		}
	}
	if err := failpoint.Here(failpoint.ShimStreams); err != nil {
		return nil, nil, err
	}
	span := trace.Begin(ctx, trace.Phase, "connect the streams")
	err = s.Connect(ctx, os.Stdin, os.Stdout, os.Stderr, term)
	span.End()
	if err != nil {
		return nil, nil, err
	}
	return s, rep, nil
}

// beginContainer has the container made, and then lets go of what only that needs.
func beginContainer(ctx context.Context, cfg *Config, req *monitor.Request, server *share.Server, socket *os.File) (*Session, *monitor.Reply, error) {
	call, cancel := context.WithTimeout(ctx, cfg.CreateTimeout)
	defer cancel()
	call, stop := whileServed(call, server)
	defer stop()
	s, rep, err := Begin(call, cfg.SandboxDir, req, socket, server)
	if server == nil {
		return s, rep, err
	}
	server.Socket.Close() // the VM has its own by now
	if err != nil {
		return nil, nil, err
	}
	defer trace.Begin(ctx, trace.Phase, "leave the host's mounts").End()
	return s, rep, server.LeaveHost()
}

// whileServed gives a context that ends with the file server as well, if there is
// one: a guest that mounts what nobody serves waits for ever.
func whileServed(ctx context.Context, server *share.Server) (served context.Context, stop func()) {
	if server == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-server.Done():
			cancel(server.Err())
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// startServer starts the file server where something is shared. To the host's OOM
// killer it is what the container is.
func startServer(ctx context.Context, cfg *Config) (server *share.Server, socket *os.File, err error) {
	if cfg.OOMScore != nil { // the server inherits it
		if before, err := monitor.SetOOMScore("self", *cfg.OOMScore); err == nil {
			defer monitor.SetOOMScore("self", before)
		}
	}
	if cfg.Share == nil {
		return nil, nil, nil
	}
	server, err = share.Start(ctx, cfg.Share, cfg.SandboxDir, cfg.ShareSocket)
	if err != nil {
		return nil, nil, err
	}
	return server, server.Socket, nil
}

// run passes signals on until the process has ended, and gives its code.
func (s *Session) run(signals <-chan os.Signal) int {
	code, err := s.Wait(signals)
	if err == nil {
		err = failpoint.Here(failpoint.ShimExit)
	}
	if err != nil && !errors.Is(err, monitor.ErrGone) {
		return exitGone
	}
	return code
}
