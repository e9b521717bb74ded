package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// spareOOMScore has the host's OOM killer take a spare's machine before anything
// else.
const spareOOMScore = 1000

// waiting is a monitor with a machine that nobody has asked for yet. It becomes
// the monitor of the first sandbox that asks, in every respect: what it has of
// its own life before is the machine, the listener, and the lock that goes with
// the folder.
type waiting struct {
	id    string
	cfg   *monitor.SandboxConfig
	store *state.Store
	log   *logrus.Logger
	// logFile is what log writes into.
	logFile *os.File

	machine *Machine
	record  *state.Spare
	scored  bool // an OOM score that is raised can be lowered again
}

// serveSpare starts a machine and waits with it. first is the connection of who
// wants the spare, which is told when it is ready.
func serveSpare(req *monitor.Request, first *monitor.Conn, boot Booter) error {
	cfg := req.Sandbox
	store, err := state.Open(cfg.Root)
	if err != nil {
		return err
	}
	w := &waiting{id: cfg.ID, cfg: cfg, store: store}
	logFile, err := openLog(store.SpareDir(cfg.ID))
	if err != nil {
		return err
	}
	defer logFile.Close()
	w.logFile, w.log = logFile, newLog(logFile)
	signal.Ignore(dumpSignal) // until there is something to tell
	log := w.log.WithField("spare", cfg.ID)
	held, err := store.HoldSpare(cfg.ID)
	if err != nil {
		log.WithError(err).Error("hold the spare's lock")
		return err
	}
	defer held.Close()
	l, err := inheritedListener()
	if err != nil {
		log.WithError(err).Error("use the inherited socket")
		return err
	}
	if _, err := monitor.SetOOMScore("self", monitor.OOMScore); err != nil {
		log.WithError(err).Debug("this process's OOM score")
	} else {
		w.scored = true
	}
	err = w.warm(boot)
	reply(first, err)
	first.Close()
	if err != nil {
		log.WithError(err).Error("there is no spare")
		w.leaveWord(err)
		return errors.Join(err, w.end())
	}
	log.Info("the spare is ready")
	conn, adopt, err := w.await(l)
	if err != nil {
		log.WithError(err).Info("the spare ends")
		return w.end()
	}
	return w.become(conn, adopt, l)
}

// leaveWord writes down why there is no spare, where that outlives this one's
// log, and has creates wait before they try again.
func (w *waiting) leaveWord(why error) {
	if w.record != nil {
		if err := w.store.NoteSpareFailure(w.record.Machine, why); err != nil {
			w.log.WithError(err).Warn("record why there is no spare")
		}
	}
	f, err := w.store.OpenSparesLog()
	if err != nil {
		w.log.WithError(err).Warn("the log of the spares")
		return
	}
	defer f.Close()
	newLog(f).WithField("spare", w.id).WithError(why).Error("there is no spare")
}

// warm starts the machine and has it run a container. How long that may be without
// progress each step knows.
func (w *waiting) warm(boot Booter) error {
	limit := SpareLimit(&w.cfg.Config)
	late := fmt.Errorf("the spare was not ready in %s (%d times runtime.create_timeout)", limit, spareRatio)
	ctx, cancel := context.WithTimeoutCause(context.Background(), limit, late)
	defer cancel()
	var err error
	if w.record, err = w.store.Spare(w.id); err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.SpareStart); err != nil {
		return err
	}
	w.machine, err = boot(ctx, w.cfg, func(vm hypervisor.VM) error {
		w.record.VM = vm.Process()
		if w.scored {
			if _, err := monitor.SetOOMScore(strconv.Itoa(w.record.VM.Pid), spareOOMScore); err != nil {
				w.log.WithError(err).Debug("the machine's OOM score")
			}
		}
		return w.store.SaveSpare(w.id, w.record)
	})
	if err != nil {
		return err
	}
	if w.machine.templateKey == "" {
		return errors.New("the machine is no clone of a template")
	}
	// Before anybody looks whether it is still there: who removes it looks for us
	// afterwards.
	w.record.Template = w.machine.templateKey
	if err := w.store.SaveSpare(w.id, w.record); err != nil {
		return err
	}
	if err := w.machine.outlived(); err != nil {
		return err
	}
	r := &rehearsing{m: w.machine, cfg: &w.cfg.Config, dir: w.store.SpareDir(w.id), log: w.log.WithField("spare", w.id)}
	if err := r.rehearse(ctx); err != nil {
		return err
	}
	if w.machine.idle, err = r.plugIdle(ctx); err != nil {
		return err
	}
	if err := w.machine.place.Close(); err != nil {
		return err
	}
	if err := failpoint.Here(failpoint.SpareReady); err != nil {
		return err
	}
	w.record.Ready = true
	if err := w.store.SaveSpare(w.id, w.record); err != nil {
		return err
	}
	if err := w.store.ForgetSpareFailure(); err != nil {
		w.log.WithError(err).Warn("creates go on to wait after an earlier failure")
	}
	return nil
}

// outlived gives an error where the template of the machine has gone.
func (m *Machine) outlived() error {
	if m.template == nil {
		return errors.New("the machine's template has gone")
	}
	held, err := m.template.Stat()
	if err != nil {
		return err
	}
	there, err := os.Lstat(m.template.Name())
	if err != nil || !os.SameFile(held, there) {
		return fmt.Errorf("the machine's template %s has gone", m.templateKey)
	}
	return nil
}

// Why a spare ends that nobody has made use of.
var (
	errUnused  = errors.New("nobody has asked for it (hypervisor.spare_timeout)")
	errUnowned = errors.New("who has claimed it has gone")
	errDied    = errors.New("its machine has died")
)

// await waits for the request of the sandbox that the spare is to become. An
// error says why there is none: then nobody can claim it any more.
func (w *waiting) await(l *net.UnixListener) (*monitor.Conn, *monitor.Request, error) {
	type asked struct {
		conn *monitor.Conn
		req  *monitor.Request
	}
	asks, gone := make(chan asked), make(chan struct{})
	over := make(chan struct{})
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			uc, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go func() { // ends with its peer, who says something or goes
				conn := monitor.NewConn(uc)
				req := &monitor.Request{}
				err := monitor.CheckPeer(uc)
				if err == nil {
					var file *os.File
					file, err = conn.Receive(req)
					file.Close() // nil is fine
				}
				if err == nil && req.Op == monitor.OpSpare {
					reply(conn, nil)
				} else if err == nil && (req.Op == monitor.OpSandbox && req.Sandbox != nil || req.Op == monitor.OpAbandon) {
					select {
					case asks <- asked{conn, req}:
						return
					case <-over:
					}
				}
				conn.Close()
				select {
				case gone <- struct{}{}:
				case <-over:
				}
			}()
		}
	}()
	defer func() { // the listener is the sandbox's from now on
		close(over)
		l.SetDeadline(time.Unix(1, 0))
		<-accepted
		l.SetDeadline(time.Time{})
	}()
	timeout, err := newBootTimer(w.cfg.Config.Hypervisor.SpareTimeout.Std())
	if err != nil {
		return nil, nil, errors.Join(err, w.withdraw())
	}
	defer timeout.Close()
	unused := timeout.C
	var unowned <-chan struct{} // once it has been claimed
	var cause error
	for {
		select {
		case a := <-asks:
			if a.req.Op == monitor.OpAbandon { // by who cleans up after its claimant
				reply(a.conn, nil)
				a.conn.Close()
				return nil, nil, errors.Join(errUnowned, w.withdraw())
			}
			err := w.fits(a.req.Sandbox)
			if err == nil {
				return a.conn, a.req, nil
			}
			reply(a.conn, err)
			a.conn.Close()
			continue
		case <-gone:
			if _, err := os.Lstat(w.store.SpareDir(w.id)); err == nil {
				continue
			}
			cause = errUnowned
		case <-unused:
			unused, cause = nil, errUnused
		case <-w.machine.VM.Done():
			return nil, nil, errors.Join(errDied, w.withdraw())
		case <-unowned:
			return nil, nil, errUnowned
		}
		if unowned == nil {
			// Another one may have claimed it, and is about to say so.
			err := w.withdraw()
			if !errors.Is(err, state.ErrNotExist) {
				return nil, nil, errors.Join(cause, err)
			}
			timer, err := newBootTimer(requestTimeout)
			if err != nil {
				return nil, nil, errors.Join(errUnowned, err)
			}
			defer timer.Close()
			unowned = timer.C
		}
	}
}

// fits gives an error where the spare is not what a sandbox is to get, or its
// folder is not that sandbox's.
func (w *waiting) fits(cfg *monitor.SandboxConfig) error {
	if cfg.Exe != w.cfg.Exe || !reflect.DeepEqual(cfg.Config, w.cfg.Config) {
		return fmt.Errorf("the spare is of another configuration than sandbox %s: %w", cfg.ID, unix.EINVAL)
	}
	rec, err := w.store.Sandbox(cfg.ID)
	if err != nil {
		return err
	}
	self, err := state.Self()
	if err != nil {
		return err
	}
	if rec.Monitor != self {
		return fmt.Errorf("the spare is not for sandbox %s: %w", cfg.ID, unix.ESRCH)
	}
	return nil
}

// withdraw takes the spare out of the pool, unless somebody has claimed it
// (state.ErrNotExist).
func (w *waiting) withdraw() error {
	ended, err := w.store.WithdrawSpare(w.id)
	if err == nil {
		w.id = ended
	}
	return err
}

// end ends the machine, and removes what is on disk where that is nobody
// else's.
func (w *waiting) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), w.cfg.Config.Runtime.TeardownTimeout.Std())
	defer cancel()
	var errs []error
	if m := w.machine; m != nil {
		errs = append(errs, m.VM.Kill())
		m.idle.close()
		m.Guest.Close()
		m.template.Close() // nil is fine
		m.place.Close()
	}
	if w.record != nil {
		errs = append(errs, spare.Leave(w.record.Cgroup), spare.RemoveCgroup(ctx, w.record.Cgroup))
	}
	if _, err := os.Lstat(w.store.SpareDir(w.id)); err == nil {
		errs = append(errs, w.store.RemoveSpare(w.id))
	}
	return errors.Join(errs...)
}

// become makes it the monitor of a sandbox. Whoever asks is told at once, and again
// when the guest has answered: until then there is another way to a machine.
func (w *waiting) become(conn *monitor.Conn, req *monitor.Request, l *net.UnixListener) error {
	cfg := req.Sandbox
	log := w.log.WithField("sandbox", cfg.ID)
	s := newSandbox(cfg, w.store, log)
	var err error
	s.oomScore = req.CallerOOMScore
	ctx := s.traced(context.Background(), req)
	begun := trace.Now()
	span := trace.Begin(ctx, trace.Phase, "adopt the spare")
	// Whoever asks has the sandbox's lock up to here, and waits for the guest
	// without it.
	if !reply(conn, nil) {
		err = errUnowned
	} else if err = failpoint.Here(failpoint.SpareAdopt); err == nil {
		err = w.machine.outlived()
	}
	if err == nil {
		limit, cancel := context.WithTimeout(ctx, w.cfg.Config.Runtime.TeardownTimeout.Std())
		err = w.machine.refresh(limit)
		cancel()
	}
	span.End()
	if !reply(conn, err) && err == nil {
		err = errUnowned
	}
	if err != nil {
		log.WithError(err).Error("the spare cannot be used")
		conn.Close()
		return errors.Join(err, w.end())
	}
	go func() { // its processes have left it
		ctx, cancel := context.WithTimeout(context.Background(), cfg.Config.Runtime.TeardownTimeout.Std())
		defer cancel()
		if err := spare.RemoveCgroup(ctx, w.record.Cgroup); err != nil {
			log.WithError(err).Warn("remove the spare's cgroup")
		}
	}()
	log.Info("the spare is this sandbox's")
	w.machine.started, w.machine.welcomed = begun, time.Time{}
	for _, notice := range w.machine.Notices { // nobody's any more
		log.Info(notice)
	}
	w.machine.Notices = nil
	ready := func(_ context.Context, _ *monitor.SandboxConfig, started func(hypervisor.VM) error) (*Machine, error) {
		if err := started(w.machine.VM); err != nil {
			return nil, errors.Join(err, w.end())
		}
		return w.machine, nil
	}
	defer s.dumpOnSignal(w.logFile)()
	if err = s.Serve(ctx, ready, l, conn, req.Container); err != nil {
		log.WithError(err).Error("the sandbox has ended")
	}
	return err
}
