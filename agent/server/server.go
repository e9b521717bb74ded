// Package server is the agent's side of the guest protocol: it serves the
// calls of agent/api on containers of the guest and carries their stdio. It
// runs in the guest.
package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/crun"
	"github.com/vc-runtime/vc-runtime/agent/spans"
)

// Runtime runs containers.
type Runtime interface {
	Create(ctx context.Context, id crun.Container, bundle string, p crun.Process) (*crun.Started, error)
	Exec(ctx context.Context, id crun.Container, spec []byte, p crun.Process) (*crun.Started, error)
	Start(ctx context.Context, id crun.Container) error
	Update(ctx context.Context, id crun.Container, resources []byte) error
	// Forget drops what the runtime knows of a container whose processes
	// are dead. Unknown ones are fine.
	Forget(id crun.Container) error
}

// Shares mounts folders of the host. Unmount of what is no mount is fine; a host
// that does not answer any more is left alone with it.
type Shares interface {
	Mount(ctx context.Context, tag, dir string) error
	// Drain returns when nothing that was asked of the host before is on its way
	// any more.
	Drain(ctx context.Context, dir string) error
	Unmount(ctx context.Context, dir string) error
}

// Disks uses the block devices that the host plugs, each by its serial number.
type Disks interface {
	// Number gives the device's number, once the kernel has found it.
	Number(ctx context.Context, serial string) (major, minor uint32, err error)
	// MountLayers mounts an overlay of layers and upper on dir/rootfs, and what
	// it is made of beside it. Unmount takes that away; what is not there is
	// fine.
	MountLayers(ctx context.Context, layers []string, upper, dir string) error
	UnmountLayers(ctx context.Context, dir string) error
}

// Group is the cgroup of a container. One that does not exist is empty.
type Group interface {
	Kill() error
	WaitEmpty(ctx context.Context) error
	Remove(ctx context.Context) error
	Freeze(ctx context.Context) error
	Thaw(ctx context.Context) error
	Pids() ([]int, error)
	Stats() (map[string]string, error)
	OOMKills() uint64
	WaitOOM(ctx context.Context, known uint64) (kills uint64, err error)
}

// Network sets up the guest's network.
type Network interface {
	Configure(ctx context.Context, req *api.ConfigureNetworkRequest) error
	// Redirect leads what is sent to an address on to other ports of it, by UDP and
	// by TCP, until what it gives is closed.
	Redirect(from netip.AddrPort, udp, tcp uint16) (io.Closer, error)
}

// Machine is the virtual machine, as its kernel sees it.
type Machine interface {
	// Online waits until the kernel has that many CPUs and MiB of memory, and
	// puts them to use.
	Online(ctx context.Context, cpus int, memory uint64) error
	// Counters are those of the network interfaces but lo.
	Counters() ([]*api.InterfaceCounters, error)
}

// Pod is what containers of the guest share where their specs ask for it.
type Pod interface {
	// Namespace gives a path of the namespace of a kind, "ipc" or "uts".
	Namespace(kind string) (string, error)
	// Shm gives the folder of a tmpfs. The first call mounts it, with data as
	// its options.
	Shm(data string) (string, error)
}

// Config is what a Server works with.
type Config struct {
	Dir         string                   // holds a folder for each container
	Runtime     Runtime                  // runs them
	Shares      Shares                   // mounts their files
	Disks       Disks                    // and those on block devices; nil refuses them
	CgroupsPath func(name string) string // linux.cgroupsPath of a container
	Group       func(name string) Group  // the folder of that
	Network     Network                  // nil refuses ConfigureNetwork and KindResolver
	Machine     Machine
	Pod         Pod // what containers share
	// Ready returns when the guest is set up for containers.
	Ready func(ctx context.Context) error
	// Rehearse plays the life of a container in this machine; nil refuses it.
	Rehearse func(ctx context.Context) error
	// Refresh sets the clock and takes entropy; nil refuses it.
	Refresh func(now time.Time, entropy []byte) error
	// Spans notes what is done; nil notes nothing.
	Spans *spans.Log
	Log   *log.Logger
}

// Server knows the containers of the guest. It outlives sessions.
type Server struct {
	cfg Config

	mu         sync.Mutex
	containers map[string]*container // by name; guarded by mu
	// unmade are the last names that were to be removed when there was no container
	// of them; guarded by mu.
	unmade []string
}

// maxUnmade is how many of those are kept: requests that are on their way at the same
// time.
const maxUnmade = 64

// New gives a Server without containers.
func New(cfg Config) *Server {
	return &Server{cfg: cfg, containers: map[string]*container{}}
}

func (s *Server) container(name string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.containers[name]
	if !ok {
		return nil, fmt.Errorf("container %.300q: %w", name, syscall.ESRCH)
	}
	return c, nil
}

// byID gives the container of that id that is not being removed.
func (s *Server) byID(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.containers {
		if c.id == id && !c.isGone() {
			return c, nil
		}
	}
	return nil, fmt.Errorf("container %.300q: %w", id, syscall.ESRCH)
}

// toRemove gives the container of a name, or nil: then none of that name is made any
// more. Requests overtake each other, and who has given up a creation asks for its
// removal at once: a container that were made after that would be nobody's, and wait
// for files that are served no longer.
func (s *Server) toRemove(name string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[name]
	if c == nil && !slices.Contains(s.unmade, name) {
		s.unmade = append(s.unmade, name)
		s.unmade = s.unmade[max(0, len(s.unmade)-maxUnmade):]
	}
	return c
}

// reserve makes a container known, so that its name is taken. id is "" for one whose
// name is its id.
func (s *Server) reserve(name, id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.unmade, name) {
		return nil, fmt.Errorf("container %s was removed before it was made: %w", name, syscall.ECANCELED)
	}
	if _, ok := s.containers[name]; ok {
		return nil, fmt.Errorf("container %s: %w", name, syscall.EEXIST)
	}
	c := s.newContainer(name, cmp.Or(id, name))
	s.containers[name] = c
	return c, nil
}

// remove removes a container and, when that has worked, its name.
func (s *Server) remove(ctx context.Context, c *container) error {
	if err := c.remove(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.name] == c {
		delete(s.containers, c.name)
	}
	return nil
}

// create makes a container; nothing of it is left when that fails.
func (s *Server) create(ctx context.Context, req *api.CreateContainerRequest) (int, error) {
	if err := s.checkCreate(req); err != nil {
		return 0, err
	}
	if err := s.cfg.Ready(ctx); err != nil {
		return 0, err
	}
	c, err := s.reserve(req.GetContainer(), req.GetId())
	if err != nil {
		return 0, err
	}
	callCtx, end, err := c.begin(ctx)
	if err != nil {
		return 0, err
	}
	pid, err := c.create(callCtx, req)
	end()
	if err == nil {
		return pid, nil
	}
	undoCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoWait)
	defer cancel()
	if uerr := s.remove(undoCtx, c); uerr != nil {
		s.cfg.Log.Printf("undo create: %v", uerr)
	}
	return 0, err
}

// checkCreate checks what becomes a file name or an argument.
func (s *Server) checkCreate(req *api.CreateContainerRequest) error {
	errs := []error{checkName("container", req.GetContainer())}
	if req.GetId() != "" {
		errs = append(errs, checkName("id", req.GetId()))
	}
	if req.GetShareTag() != "" || req.GetRoot() == nil {
		errs = append(errs, checkName("share tag", req.GetShareTag()))
	}
	if s.cfg.Disks == nil && (req.GetRoot() != nil || len(req.GetDisks()) > 0) {
		errs = append(errs, fmt.Errorf("disks: %w", errSpec))
	}
	return errors.Join(append(errs, checkDisks(req), checkFiles(req.GetFiles()))...)
}
