package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/agent/crun"
	"github.com/vc-runtime/vc-runtime/agent/reaper"
)

// fakeGroup is the processes that the fake crun has noted.
type fakeGroup struct{ file string }

func (g fakeGroup) Pids() ([]int, error) {
	b, err := os.ReadFile(g.file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		pid, _ := strconv.Atoi(f)
		pids = append(pids, pid)
	}
	return pids, err
}

func (g fakeGroup) Kill() error {
	pids, err := g.Pids()
	for _, pid := range pids {
		syscall.Kill(-pid, syscall.SIGKILL) // each has its own session
	}
	return err
}

func (g fakeGroup) WaitEmpty(context.Context) error { return nil }
func (g fakeGroup) Remove(context.Context) error {
	if err := os.Remove(g.file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
func (g fakeGroup) Freeze(context.Context) error      { return nil }
func (g fakeGroup) Thaw(context.Context) error        { return nil }
func (g fakeGroup) Stats() (map[string]string, error) { return map[string]string{"cpu.stat": "x"}, nil }
func (g fakeGroup) OOMKills() uint64                  { return 0 }
func (g fakeGroup) WaitOOM(ctx context.Context, _ uint64) (uint64, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// fakeShares mounts every tag but "never", which waits for its device for ever, and
// "dead", which waits for an answer whoever gives up. It refuses to unmount while
// broken.
type fakeShares struct {
	mu      sync.Mutex
	mounted map[string]string
	broken  bool
	tried   []string // to unmount
	// answers has the beginning of a mount of "dead" first; closed it is the answer.
	answers chan struct{}
}

func (f *fakeShares) Mount(ctx context.Context, tag, dir string) error {
	if tag == "never" {
		<-ctx.Done()
		return ctx.Err()
	}
	if tag == "dead" {
		f.answers <- struct{}{}
		<-f.answers
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounted[dir] = tag
	return nil
}

func (f *fakeShares) Drain(context.Context, string) error { return nil }

func (f *fakeShares) Unmount(_ context.Context, dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried = append(f.tried, dir)
	if f.broken {
		return syscall.EBUSY
	}
	delete(f.mounted, dir)
	return nil
}

// unmounts are the folders that were to be unmounted.
func (f *fakeShares) unmounts() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.tried)
}

func (f *fakeShares) setBroken(b bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = b
}

// rig is a Server with fakes below it and a client on top.
type rig struct {
	*client.Client
	dir    string
	server *Server
	shares *fakeShares
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	r := &rig{dir: t.TempDir(), shares: &fakeShares{mounted: map[string]string{}}}
	state, calls, dir := filepath.Join(r.dir, "crun"), filepath.Join(r.dir, "calls"), filepath.Join(r.dir, "c")
	for _, d := range []string{state, calls, dir} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec %s \"$@\"\n", fakeEnv, os.Args[0])
	path := filepath.Join(r.dir, "fake")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	reap := reaper.New()
	ctx, cancel := context.WithCancel(context.Background())
	reaped := make(chan struct{})
	go func() { reap.Run(ctx); close(reaped) }()
	t.Cleanup(func() { cancel(); <-reaped })
	r.server = New(Config{
		Dir: dir, Shares: r.shares, Log: log.New(testWriter{t}, "", 0),
		Runtime:     &crun.Runtime{Path: path, State: state, Scratch: calls, Reaper: reap},
		CgroupsPath: func(name string) string { return "/" + name },
		Group:       func(name string) Group { return fakeGroup{filepath.Join(state, name+".pids")} },
		Machine:     fakeMachine{},
		Ready:       func(context.Context) error { return nil },
	})
	r.Client = r.session(t)
	t.Cleanup(func() {
		for _, name := range []string{"c", "d"} {
			r.RemoveContainer(context.Background(), &api.ContainerRequest{Container: name})
		}
		r.Close()
	})
	return r
}

type fakeMachine struct{}

func (fakeMachine) Online(_ context.Context, cpus int, _ uint64) error {
	if cpus > 4 {
		return syscall.ENOTSUP
	}
	return nil
}

func (fakeMachine) Counters() ([]*api.InterfaceCounters, error) {
	return []*api.InterfaceCounters{{Name: "eth0", RxBytes: 7}}, nil
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("agent: %s", b)
	return len(b), nil
}

// session connects a client to the server.
func (r *rig) session(t *testing.T) *client.Client {
	t.Helper()
	c, served, err := r.dial(t, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return c
}

// dial connects a client to the server, which ends with it and gives the
// agent's error then.
func (r *rig) dial(t *testing.T, v *client.Vsock, listen func() (Listener, error)) (*client.Client, <-chan error, error) {
	t.Helper()
	host, guest := connPair(t)
	served := make(chan error, 1)
	go func() {
		defer guest.Close()
		served <- r.serve(guest, listen)
	}()
	c, err := client.Dial(testContext(t), host, client.Options{ImageID: "image", Vsock: v})
	return c, served, err
}

// serve is the agent's side of one session, as in cmd/vc-agent.
func (r *rig) serve(port net.Conn, listen func() (Listener, error)) error {
	welcome, err := Greet(port, api.Hello{Protocol: api.ProtocolVersion, ImageID: "image"})
	if err != nil {
		return err
	}
	carrier, err := Carrier(port, welcome.Vsock, listen)
	if err != nil {
		return err
	}
	defer carrier.Close()
	return r.server.Serve(context.Background(), carrier)
}

func connPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }
