// Command vc-agent is PID 1 of the guest: it sets up the virtual machine,
// says hello to the host and serves the guest protocol (agent/api) until the
// machine is switched off. It never ends: its death is the machine's.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/cgroup"
	"github.com/vc-runtime/vc-runtime/agent/crun"
	"github.com/vc-runtime/vc-runtime/agent/guest"
	"github.com/vc-runtime/vc-runtime/agent/reaper"
	"github.com/vc-runtime/vc-runtime/agent/server"
	"github.com/vc-runtime/vc-runtime/agent/spans"
)

// version is set by the build (-ldflags "-X main.version=...").
var version = "unknown"

// Places in the guest image and in the running guest.
const (
	imageFile     = "/etc/vc/image.json"
	crunPath      = "/usr/bin/crun"
	crunState     = "/run/crun"
	callsDir      = "/run/vc/calls"
	containersDir = "/run/vc/containers"
	podShmDir     = "/run/vc/shm"
)

func main() {
	logger := log.New(os.Stderr, "vc-agent: ", 0)
	if os.Getpid() != 1 {
		logger.Print("this is the init of a guest, not a program to be called")
		os.Exit(2)
	}
	logger.Printf("fatal: %v", run(context.Background(), logger))
	os.Exit(1) // the kernel panics, which ends the machine
}

// run returns only with an error.
func run(ctx context.Context, logger *log.Logger) error {
	keepSignals()
	notes := new(spans.Log)
	ctx = spans.With(ctx, notes)
	spans.Begin(ctx, "kernel").Since(0).End()
	span := spans.Begin(ctx, "mounts")
	if err := errors.Join(guest.MoveRoot(), guest.MountEarly()); err != nil {
		return err
	}
	modules, err := guest.ReadModules(guest.ModulesFile)
	if err != nil {
		return err
	}
	if guest.IsEmulated() {
		if err := guest.LetSysmonSleep(); err != nil {
			logger.Printf("let the scheduler's monitor sleep: %v", err) // slower, no worse
		}
	}
	span.End()
	span = spans.Begin(ctx, "modules")
	if err := modules.LoadBoot(); err != nil {
		return err
	}
	span.End()
	span = spans.Begin(ctx, "channel")
	port, err := guest.OpenPort(ctx, api.PortName)
	if err != nil {
		return err
	}
	imageID, err := readImageID()
	if err != nil {
		return err
	}
	span.End()

	reap := reaper.New()
	go reap.Run(ctx)
	runtime := &crun.Runtime{Path: crunPath, State: crunState, Scratch: callsDir, Reaper: reap}
	finish := newFinish(spans.With(ctx, notes), guest.Finish, makeFolders, modules.Preload, runtime.Seal)
	vsock := &guest.Vsock{Modules: modules}
	listen := func() (server.Listener, error) { return vsock.Listen() }
	cfg := serverConfig(logger, runtime, reap, modules, finish.wait, notes)
	plain := cfg // what a rehearsal is served by rehearses nothing itself
	cfg.Rehearse = func(ctx context.Context) error { return rehearse(ctx, plain, runtime.Path) }
	cfg.Refresh = guest.Seed
	hello := api.Hello{Protocol: api.ProtocolVersion, Version: version, ImageID: imageID}
	if guest.IsTemplate() {
		warning, err := settle(ctx, cfg, runtime, finish, vsock)
		if err != nil {
			return err
		}
		hello.Warning = warning
	}
	go func() {
		if err := finish.wait(ctx); err != nil {
			return // each container is told
		}
		logger.Print(guest.BoundPageCache(ctx))
	}()
	srv := server.New(cfg)
	for {
		err := session(ctx, port, listen, srv, hello, finish.start)
		if errors.Is(err, syscall.ENODEV) || errors.Is(err, os.ErrClosed) {
			return err // the port is gone
		}
		if err != nil {
			logger.Printf("session: %v", err)
		}
	}
}

// keepSignals catches what would end the agent: a process without a pid
// namespace of its own can signal PID 1. They are caught and not ignored,
// because children inherit what is ignored.
func keepSignals() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM,
		syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGPWR)
}

// settle does everything that clones need not do again. Hello, which says that
// the machine can be saved, comes after it. warning is what did not work that
// clones can do without.
func settle(ctx context.Context, cfg server.Config, runtime *crun.Runtime, finish *finish, vsock *guest.Vsock) (warning string, err error) {
	finish.start()
	if guest.HasVsock() {
		if err := vsock.Prepare(); err != nil {
			cfg.Log.Print(err) // a clone's host hears of it when it asks for vsock
		}
	}
	if err := finish.wait(ctx); err != nil {
		return "", err
	}
	if err := rehearse(ctx, cfg, runtime.Path); err != nil {
		warning = err.Error()
	}
	return warning, guest.ClearFreeMemory()
}

// session greets the host and serves it until it goes away. The rest of the
// set-up starts once Hello is out.
func session(ctx context.Context, port *guest.Port, listen func() (server.Listener, error), srv *server.Server, hello api.Hello, finish func()) error {
	conn, err := port.Session()
	if err != nil {
		return err
	}
	defer conn.Close()
	hello.UptimeMs = uptime().Milliseconds()
	welcome, err := server.Greet(helloThen{conn, finish}, hello)
	if err != nil {
		return err
	}
	span := spans.Begin(ctx, "seed")
	err = guest.Seed(time.Unix(0, welcome.TimeNs), welcome.Entropy)
	span.End()
	if err != nil {
		return err
	}
	span = spans.Begin(ctx, "carrier")
	carrier, err := server.Carrier(conn, welcome.Vsock, listen)
	span.End()
	if err != nil {
		return err
	}
	defer carrier.Close()
	return srv.Serve(ctx, carrier)
}

// helloThen calls after once something has been written.
type helloThen struct {
	io.ReadWriter
	after func()
}

func (h helloThen) Write(b []byte) (int, error) {
	n, err := h.ReadWriter.Write(b)
	h.after()
	return n, err
}

func serverConfig(logger *log.Logger, runtime *crun.Runtime, reap *reaper.Reaper, modules *guest.Modules, ready func(context.Context) error, notes *spans.Log) server.Config {
	return server.Config{
		Dir:         containersDir,
		Runtime:     runtime,
		Shares:      &guest.Shares{Modules: modules, Reaper: reap},
		Disks:       &guest.Disks{Modules: modules, Reaper: reap},
		Network:     &guest.Network{Modules: modules},
		Machine:     guest.Machine{},
		Pod:         &guest.Pod{ShmDir: podShmDir},
		CgroupsPath: func(name string) string { return path.Join("/", guest.ContainersCgroup, name) },
		Group: func(name string) server.Group {
			return cgroup.Group{Dir: path.Join(guest.CgroupRoot, guest.ContainersCgroup, name)}
		},
		Ready: ready,
		Spans: notes,
		Log:   logger,
	}
}

// finish runs the rest of the set-up once, in the background.
type finish struct {
	steps []func() error
	begin func() spans.Span
	once  sync.Once
	done  chan struct{}
	err   error // written before done is closed
}

func newFinish(ctx context.Context, steps ...func() error) *finish {
	begin := func() spans.Span { return spans.Begin(ctx, "rest of the set-up") }
	return &finish{steps: steps, begin: begin, done: make(chan struct{})}
}

func (f *finish) start() {
	f.once.Do(func() {
		go func() {
			defer close(f.done)
			defer f.begin().End()
			for _, step := range f.steps {
				f.err = errors.Join(f.err, step())
			}
		}()
	})
}

func (f *finish) wait(ctx context.Context) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the set-up of the guest: %w", ctx.Err())
	}
}

// makeFolders makes folders that everybody may pass: in a user namespace crun is
// not root here, and a container reaches none of them.
func makeFolders() error {
	for _, dir := range []string{crunState, callsDir, containersDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	return nil
}

// readImageID gives the id of the guest image, which the host compares with
// the one it has started.
func readImageID() (string, error) {
	b, err := os.ReadFile(imageFile)
	if err != nil {
		return "", err
	}
	var image struct {
		ImageID  string `json:"imageId"`
		Protocol int    `json:"protocol"`
	}
	if err := json.Unmarshal(b, &image); err != nil {
		return "", fmt.Errorf("decode %s: %w", imageFile, err)
	}
	return image.ImageID, nil
}

// uptime is the time since the kernel started.
func uptime() time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
