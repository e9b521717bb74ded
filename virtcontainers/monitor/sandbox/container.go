package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"
	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// container is one container of the sandbox, from its shim's request to its
// shim's end.
type container struct {
	s  *Sandbox
	id string
	// name is what the guest knows this creation by, tag is its share's device, and
	// its disks' serial numbers begin with number. No other one of the machine ever
	// has them: what of it cannot be taken away is in nobody's way.
	name, tag, number string
	log               *logrus.Entry
	init              *process
	shim              state.Process
	// oomFile is left where the guest's OOM killer was at work; "" for none.
	oomFile string
	// oomScore is its oom_score_adj on the host; nil where it has none.
	oomScore *int
	oom      broadcast // tells of OOM kills

	shimGone chan struct{} // closed when the shim's process has ended
	unserved chan struct{} // closed when the file server has ended before the process
	killed   chan struct{} // closed when the container has to end at once
	released chan struct{} // closed when nothing of it is left
	removed  chan struct{} // closed when the sandbox has forgotten it
	deserted chan struct{} // closed when the guest is not waited for any more
	killOnce sync.Once

	desertOnce sync.Once

	// execTurns bounds how many processes are on their way into it at a time. Each
	// container of a pod has its own: where one's hang no other one's wait.
	execTurns *turns

	mu       sync.Mutex          // guards what follows
	devices  []hypervisor.Device // share and disks
	inGuest  bool                // the agent knows it
	started  bool
	execs    map[string]*process
	lastExec int
	remains  error // what is left of it in the machine
}

// newContainer registers the container whose shim is at the other end.
func (s *Sandbox) newContainer(conn *monitor.Conn, req *monitor.Request) (*container, error) {
	shim, err := s.shimOf(conn)
	if err != nil {
		return nil, fmt.Errorf("find the shim's process: %w", err)
	}
	number := strconv.FormatUint(s.creations.Add(1), 10)
	c := &container{
		s: s, id: req.Container, shim: shim,
		name: "container" + number, tag: "share" + number, number: number,
		oomFile:  req.OOMFile,
		oomScore: req.OOMScore,
		log:      s.log.WithField("container", req.Container),
		shimGone: make(chan struct{}),
		unserved: make(chan struct{}),
		killed:   make(chan struct{}),
		released: make(chan struct{}),
		removed:  make(chan struct{}),
		deserted: make(chan struct{}),
		execs:    make(map[string]*process),

		execTurns: newTurns(execsAtOnce),
	}
	c.init = newProcess(c, "", req.Stdio, conn)
	if err := s.add(c); err != nil {
		return nil, err
	}
	go func() { // ends with the shim, which ends with the container
		defer close(c.shimGone)
		if err := shim.Wait(context.Background()); err != nil {
			c.log.WithError(err).Error("wait for the shim")
		}
	}()
	return c, nil
}

// create makes the container in the guest, its process waiting before exec.
func (c *container) create(ctx context.Context, req *monitor.Request, share *os.File) error {
	span := trace.Begin(ctx, trace.Phase, "wait for the machine")
	m, err := c.s.ready(ctx)
	span.End()
	if err != nil {
		return err
	}
	c.s.scoreVM(m.VM.Process())
	fits := c.s.makeRoom(ctx, m, c.id, req.Demand) // takes its time, and is not needed before the start
	guest := &api.CreateContainerRequest{
		Container: c.name,
		Id:        c.id,
		Spec:      req.Spec,
		Stdio:     guestStdio(req.Stdio),
	}
	if err := c.plugDisks(ctx, m, req, guest); err != nil {
		return c.failed("attach the disks to the VM", err)
	}
	var idle *idleShare
	if share != nil {
		if idle = m.takeIdle(); idle != nil {
			c.tag = idleTag
		}
		guest.ShareTag = c.tag
	}
	c.mu.Lock()
	c.inGuest = true
	c.mu.Unlock()
	if err := failpoint.Here(failpoint.MonitorCreate); err != nil {
		return c.failed("create the container in the guest", err)
	}
	// While the host plugs the share the agent does what needs no files, and waits
	// for the device.
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	made := make(chan error, 1)
	go func() { // ends with the call
		_, err := m.Guest.CreateContainer(call, guest)
		made <- err
	}()
	if share != nil {
		if err := c.plugShare(ctx, m, idle, share); err != nil {
			cancel() // the agent gives up when the container is removed
			<-made
			return c.failed("attach the shared files to the VM", err)
		}
	}
	if err := <-made; err != nil {
		return c.failed("create the container in the guest", err)
	}
	if err := fits(); err != nil {
		return c.failed("make room for the container", err)
	}
	c.init.watch()
	go c.watchOOM() // ends with the process
	if err := failpoint.Here(failpoint.MonitorNetwork); err != nil {
		return err
	}
	return c.syncNetwork(ctx, m)
}

// plugShare attaches the file server, to a device that is there already where idle
// is one.
func (c *container) plugShare(ctx context.Context, m *Machine, idle *idleShare, share *os.File) error {
	if err := failpoint.Here(failpoint.MonitorPlug); err != nil {
		return err
	}
	if idle != nil {
		c.plugged(idle)
		return idle.attach(ctx, share)
	}
	dev, err := m.VM.PlugShare(ctx, c.tag, share)
	if err != nil {
		return err
	}
	c.plugged(dev)
	return nil
}

// plugged keeps a device until the container's end.
func (c *container) plugged(dev hypervisor.Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.devices = append(c.devices, dev)
}

// takeDevices gives what is plugged, to be unplugged.
func (c *container) takeDevices() []hypervisor.Device {
	c.mu.Lock()
	defer c.mu.Unlock()
	devices := c.devices
	c.devices = nil
	return devices
}

// unplug unplugs all devices, also after one that fails.
func unplug(ctx context.Context, devices []hypervisor.Device) error {
	var errs []error
	for _, dev := range devices {
		errs = append(errs, dev.Unplug(ctx))
	}
	return errors.Join(errs...)
}

// failed names the phase of a failure. An answer of the agent stands for
// itself; for anything else the end of the guest's console may tell why.
func (c *container) failed(phase string, err error) error {
	var guest *api.GuestError
	if errors.As(err, &guest) {
		return err
	}
	if errors.Is(err, hypervisor.ErrNoSlot) || errors.Is(err, hypervisor.ErrNoInterrupt) {
		return fmt.Errorf("%s: %w", phase, c.s.full(err))
	}
	select {
	case <-c.shimGone:
		err = fmt.Errorf("the container's shim has died: %w", err)
	default:
	}
	if tail := consoleTail(c.s.machine.VM.Console()); tail != "" {
		return fmt.Errorf("%s: %w; the guest's console ends with: %s", phase, err, tail)
	}
	return fmt.Errorf("%s: %w", phase, err)
}

// syncNetwork makes the guest's network that of the shim's namespace.
func (c *container) syncNetwork(ctx context.Context, m *Machine) error {
	cpus, err := c.s.size.cpus(ctx)
	if err != nil {
		return err
	}
	return c.s.full(c.s.net.sync(ctx, m, c.shim.Pid, cpus))
}

// start lets the container's process exec.
func (c *container) start(ctx context.Context) error {
	m, err := c.s.ready(ctx)
	if err != nil {
		return err
	}
	if err := c.syncNetwork(ctx, m); err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.MonitorStart); err != nil {
		return err
	}
	if _, err := m.Guest.StartContainer(ctx, &api.ContainerRequest{Container: c.name}); err != nil {
		return err
	}
	c.mu.Lock()
	c.started = true
	c.mu.Unlock()
	if err := c.s.noteStart(c.id); err != nil { // who has asked for the start writes it down too
		c.log.WithError(err).Warn("record the start")
	}
	return nil
}

func (c *container) resize(ctx context.Context, req *monitor.Request) error {
	m, err := c.s.ready(ctx)
	if err != nil {
		return err
	}
	_, err = m.Guest.ResizeConsole(ctx, &api.ResizeConsoleRequest{
		Container: c.name, Process: req.Process,
		Width: uint32(req.Width), Height: uint32(req.Height),
	})
	return err
}

func (c *container) pause(ctx context.Context) error {
	_, err := c.s.machine.Guest.PauseContainer(ctx, &api.ContainerRequest{Container: c.name})
	return err
}

func (c *container) resume(ctx context.Context) error {
	_, err := c.s.machine.Guest.ResumeContainer(ctx, &api.ContainerRequest{Container: c.name})
	return err
}

// hostPids are the pids of the shims, which stand for the processes.
func (c *container) hostPids() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := []int{c.shim.Pid}
	for _, p := range c.execs {
		if pid, err := monitor.PeerPid(p.conn.UnixConn); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
