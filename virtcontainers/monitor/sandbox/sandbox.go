// Package sandbox is the monitor: the one process that owns a virtual
// machine, from its boot to its end, and everything that the containers in it
// share. It runs as a hidden sub-command, one for each sandbox.
//
// Lifetime: the monitor goes on while a container lives in its sandbox or
// somebody holds a claim (a create that has not finished), and ends as soon
// as neither is the case. The VM dies with it, by parent-death signal, so
// that its own death by SIGKILL leaves nothing behind either.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/queue"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
)

// Guest is the agent, as the monitor uses it.
type Guest interface {
	api.AgentService
	// OpenStream connects to one stream of a process.
	OpenStream(ctx context.Context, kind api.Kind, container, process string) (net.Conn, error)
	// Forward connects to a TCP port on the guest's localhost.
	Forward(ctx context.Context, port uint16) (net.Conn, error)
	// Resolver gives the stream of what is asked on api.ResolverAddress in the
	// guest.
	Resolver(ctx context.Context) (net.Conn, error)
	// Done is closed when the agent cannot be talked to any more.
	Done() <-chan struct{}
	Close() error
}

// Machine is a booted VM and the agent in it.
type Machine struct {
	VM    hypervisor.VM
	Guest Guest
	// Carrier is what the session with the agent goes over.
	Carrier api.Carrier
	// Notices are for the user who asked for the sandbox.
	Notices []string

	welcomed time.Time // before the guest was told the time; zero where it was not long ago
	caughtUp sync.Once

	started  int64    // when the VM's start began, by trace.Now
	template *os.File // held while the template is in use; nil for none
	// templateKey is the template's name; "" for none.
	templateKey string
	place       *queue.Place // among the machines that start; nil for none
	idle        *idleShare   // of a machine that was a spare; nil for none
}

// Booter boots the machine of a sandbox, or clones a booted one. started is
// called as soon as a VM runs, which may be long before the agent answers, and
// again where another VM is tried after that. On an error nothing
// is left running, and the error has the phase and the end of the console.
type Booter func(ctx context.Context, cfg *monitor.SandboxConfig, started func(hypervisor.VM) error) (*Machine, error)

// Sandbox is the state of a monitor.
type Sandbox struct {
	cfg   *monitor.SandboxConfig
	store *state.Store
	log   *logrus.Entry

	// oomScore is what the machine has without a container's own, setOOMScore sets
	// it.
	oomScore    int
	setOOMScore func(pid string, score int) (int, error)

	// shimOf finds the process at the other end of a shim's connection.
	shimOf func(*monitor.Conn) (state.Process, error)

	booted  chan struct{} // closed when machine or bootErr is set
	machine *Machine
	bootErr error

	net  networker
	size *sizer

	mu         sync.Mutex            // guards what follows
	containers map[string]*container // by id, until released
	started    map[string]bool       // by id: who has been started, as the record says
	// claims has the ids of containers that somebody is creating, and what is
	// closed when that is over.
	claims map[string]chan struct{}
	idle   chan struct{} // closed when the last container and claim have gone
	ended  bool
	// first is the container that the sandbox was started for, cache how far the
	// sandbox and the create that waits for it have come, kept is set while it is
	// unclaimed.
	first string
	cache resourcecache.State
	kept  *keeping
	rooms rooms // of containers that join, until these are claimed

	// settled is closed when the create that the sandbox was started for is over,
	// one way or the other.
	settled    chan struct{}
	settleOnce sync.Once

	traces map[string]*trace.Tracer // by path; guarded by mu

	spansTurn chan struct{} // has room for one: who asks the guest for spans
	spansSeen uint64        // number of the last one; guarded by spansTurn

	recording sync.Mutex     // one change of the record at a time
	requests  sync.WaitGroup // connections being served

	creations atomic.Uint64 // of containers, in the machine's life
	aside     aside         // what of them the guest does not let go of
}

func newSandbox(cfg *monitor.SandboxConfig, store *state.Store, log *logrus.Entry) *Sandbox {
	return &Sandbox{
		cfg: cfg, store: store, log: log, shimOf: peerProcess, setOOMScore: monitor.SetOOMScore, net: &attachment{
			turn:     make(chan struct{}, 1),
			forwards: !cfg.OwnNetwork, config: cfg.Config.Network, log: log, limit: cfg.Config.Runtime.CallTimeout.Std(),
		}, size: newSizer(cfg),
		booted:     make(chan struct{}),
		containers: make(map[string]*container),
		claims:     make(map[string]chan struct{}),
		started:    make(map[string]bool),
		idle:       make(chan struct{}),
		settled:    make(chan struct{}),
		traces:     make(map[string]*trace.Tracer),
		spansTurn:  make(chan struct{}, 1),
		rooms:      rooms{by: make(map[string]*reservation)},
	}
}

func peerProcess(conn *monitor.Conn) (state.Process, error) {
	pid, err := monitor.PeerPid(conn.UnixConn)
	if err != nil {
		return state.Process{}, err
	}
	return state.FindProcess(pid)
}

// Serve boots the machine and serves the socket, and returns when nobody
// needs the sandbox any more and the VM is dead. first is the connection of
// the create that started the monitor, to make the container called id.
func (s *Sandbox) Serve(ctx context.Context, boot Booter, l *net.UnixListener, first *monitor.Conn, id string) error {
	defer s.closeTraces()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	s.first, s.cache = id, resourcecache.Creating
	s.claims[id] = make(chan struct{})
	s.requests.Go(func() { s.serveClaim(first, id) })

	bootCtx, stopBoot := context.WithCancel(ctx)
	go func() { // nobody wants the machine any more: stop booting it
		select {
		case <-s.idle:
		case <-ctx.Done():
		}
		stopBoot()
	}()
	go s.accept(l)
	leaving := make(chan struct{})
	span := trace.Begin(bootCtx, trace.Phase, "boot")
	if s.bootErr = errors.Join(failpoint.Here(failpoint.MonitorBoot), s.size.hold(bootCtx, s.size.have.MemoryMiB)); s.bootErr == nil {
		s.machine, s.bootErr = boot(bootCtx, s.cfg, s.recordVM)
	}
	span.End()
	close(s.booted)
	if s.bootErr != nil {
		s.log.WithError(s.bootErr).Warn("the machine did not boot")
	} else {
		s.log.WithField("carrier", s.machine.Carrier).Info("the machine runs")
		for _, notice := range s.machine.Notices {
			s.log.Info(notice)
		}
		if idle := s.machine.idle; idle != nil {
			s.requests.Go(func() { idle.watch(s.log) })
		}
		go func() { defer close(leaving); s.leavePlace() }()
	}

	<-s.idle
	s.endRooms()
	l.Close()
	var err error
	if s.machine != nil {
		<-leaving
		err = s.machine.VM.Kill()
		s.machine.idle.close()
		s.machine.Guest.Close()
		s.machine.template.Close() // nil is fine
	}
	err = errors.Join(err, s.net.close())
	s.finishRequests(2 * time.Second)
	return errors.Join(err, failpoint.Here(failpoint.MonitorEnd))
}

// leavePlace lets the next machine start when this one's first container is
// there: until then the guest works as hard as in its boot. A create that hangs
// does not keep others waiting for long.
func (s *Sandbox) leavePlace() {
	limit := time.NewTimer(s.cfg.Config.Runtime.CallTimeout.Std())
	defer limit.Stop()
	select {
	case <-s.settled:
	case <-s.idle:
	case <-s.machine.VM.Done():
	case <-limit.C:
	}
	if err := errors.Join(failpoint.Here(failpoint.MonitorLeavePlace), s.machine.place.Close()); err != nil {
		s.log.WithError(err).Warn("leave the queue of starting machines")
	}
}

// settle says that the first create is over.
func (s *Sandbox) settle() { s.settleOnce.Do(func() { close(s.settled) }) }

// finishRequests lets the last answers get out.
func (s *Sandbox) finishRequests(limit time.Duration) {
	done := make(chan struct{})
	go func() { s.requests.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(limit):
		s.log.Warn("ending with requests unanswered")
	}
}

// recordVM writes down which process is the VM, so that others can see that
// it is dead, and end it should this monitor fail to.
func (s *Sandbox) recordVM(vm hypervisor.VM) error {
	if err := failpoint.Here(failpoint.MonitorRecordVM); err != nil {
		return err
	}
	err := s.record(func(rec *state.Sandbox) { rec.VM = vm.Process() })
	if err != nil {
		return fmt.Errorf("record the VM: %w", err)
	}
	s.scoreVM(vm.Process())
	return nil
}

// record changes the sandbox's record. One that stays as it is is not written.
func (s *Sandbox) record(change func(*state.Sandbox)) error {
	s.recording.Lock()
	defer s.recording.Unlock()
	rec, err := s.store.Sandbox(s.cfg.ID)
	if err != nil {
		return err
	}
	was := *rec
	was.Started = slices.Clone(rec.Started)
	if change(rec); reflect.DeepEqual(&was, rec) {
		return nil
	}
	return s.store.SaveSandbox(rec)
}

// ready waits for the boot and gives its result.
func (s *Sandbox) ready(ctx context.Context) (*Machine, error) {
	if err := failpoint.Here(failpoint.MonitorAwaitMachine); err != nil {
		return nil, err
	}
	select {
	case <-s.booted:
		return s.machine, s.bootErr
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the VM to boot: %w", context.Cause(ctx))
	}
}

// booting reports whether the boot has not ended yet.
func (s *Sandbox) booting() bool {
	select {
	case <-s.booted:
		return false
	default:
		return true
	}
}

func (s *Sandbox) accept(l *net.UnixListener) {
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.log.WithError(err).Error("accept")
			}
			return
		}
		s.requests.Go(func() { s.serve(monitor.NewConn(uc)) })
	}
}

// claim keeps the sandbox alive, and lets the container called id be made in
// it, until dropClaim.
//
// A container of that name may be on its way out, deleted a moment ago, or its
// create have been killed: claim waits for the end of that.
//
// With the key of a request it adopts what is kept for that. room is the key of one
// that joins, for which its room is kept; "" for none.
func (s *Sandbox) claim(ctx context.Context, id, key string, room resourcecache.Key) error {
	for {
		gone, err := s.tryClaim(id, key, room)
		if gone == nil && err == nil {
			err = errors.Join(s.store.RemoveUnclaimed(id), s.forgetStart(id))
		}
		if gone == nil {
			return err
		}
		select {
		case <-gone:
		case <-ctx.Done():
			return fmt.Errorf("container %s does not end: %w", id, context.Cause(ctx))
		}
	}
}

// noteStart records that a container was started.
func (s *Sandbox) noteStart(id string) error {
	s.mu.Lock()
	s.started[id] = true
	s.mu.Unlock()
	return s.record(func(rec *state.Sandbox) { rec.Started = append(rec.Started, id) })
}

// forgetStart takes that back: another container of that name is to be made,
// which has not been started.
func (s *Sandbox) forgetStart(id string) error {
	s.mu.Lock()
	was := s.started[id]
	delete(s.started, id)
	s.mu.Unlock()
	if !was {
		return nil
	}
	return s.record(func(rec *state.Sandbox) {
		rec.Started = slices.DeleteFunc(rec.Started, func(other string) bool { return other == id })
	})
}

// tryClaim is claim without waiting. It gives a channel that is closed when it
// makes sense to try again.
func (s *Sandbox) tryClaim(id, key string, room resourcecache.Key) (gone <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		if gone == nil && err == nil {
			s.enterRoom(id, room)
		}
	}()
	c := s.containers[id]
	switch {
	case s.ended:
		return nil, errEnding
	case key != "":
		return s.tryAdopt(id, key)
	case s.cache == resourcecache.Unclaimed:
		return s.tryTakeOver(id)
	case s.claims[id] != nil:
		return s.claims[id], nil
	case c != nil && (c.isKilled() || isClosed(c.shimGone)):
		return c.removed, nil
	case c != nil:
		return nil, fmt.Errorf("container %s is in the sandbox already: %w", id, unix.EEXIST)
	}
	s.claims[id] = make(chan struct{})
	return nil, nil
}

// dropClaim gives up a claim, and gives the container if it has been made.
func (s *Sandbox) dropClaim(id string) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dropClaimLocked(id)
}

// dropClaimLocked is dropClaim with mu held.
func (s *Sandbox) dropClaimLocked(id string) *container {
	if id == s.first {
		s.settle()
	}
	if over := s.claims[id]; over != nil {
		delete(s.claims, id)
		close(over)
	}
	s.endIfIdle()
	return s.containers[id]
}

var errEnding = fmt.Errorf("the sandbox is ending: %w", unix.ESRCH)

func (s *Sandbox) add(c *container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnding
	}
	if s.claims[c.id] == nil {
		return fmt.Errorf("container %s: nobody claims it: %w", c.id, unix.ECANCELED)
	}
	if s.containers[c.id] != nil {
		return fmt.Errorf("container %s is in the sandbox already: %w", c.id, unix.EEXIST)
	}
	if err := s.aside.full(); err != nil {
		return err
	}
	s.containers[c.id] = c
	return nil
}

func (s *Sandbox) remove(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
		if s.rooms.by[c.id] == nil {
			s.size.drop(c.id)
		}
		close(c.removed)
	}
	s.endIfIdle()
}

// endIfIdle is called with mu held.
func (s *Sandbox) endIfIdle() {
	if !s.ended && len(s.claims) == 0 && len(s.containers) == 0 && s.cache != resourcecache.Unclaimed {
		s.ended = true
		close(s.idle)
	}
}

// container gives a container that is in the sandbox, or ESRCH.
func (s *Sandbox) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("container %s is not in the sandbox: %w", id, unix.ESRCH)
}

// last reports whether the VM ends with c: nobody else is in it.
func (s *Sandbox) last(c *container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache == resourcecache.Unclaimed {
		return false // the machine is kept
	}
	if c.id == s.cfg.ID {
		return true
	}
	return len(s.containers) == 1 && s.containers[c.id] == c && len(s.claims) == 0
}
