package virtcontainers

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor/sandbox"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// SparesCommand is the hidden sub-command of the filler, the process that fills
// the pool. The root follows.
const SparesCommand = "spares"

// fillTimeout bounds what a filler does after hypervisor.spare_delay. It waits for no
// guest: only for other fillers, and the end of what is of no use any more.
const fillTimeout = time.Minute

// refill has the pool filled by a process of its own: whoever has created a
// container does not wait for that, and takes no lock for it.
func (r *Runtime) refill(ctx context.Context, p *plan) {
	err := failpoint.Here(failpoint.SpareRefill)
	if err == nil {
		var key spare.Key
		if key, err = p.spareKey(); err == nil {
			err = r.spawnFiller(ctx, key)
		}
	}
	if err != nil {
		r.Log.WithError(err).Warn("no spare is made")
	}
}

func (r *Runtime) spawnFiller(ctx context.Context, key spare.Key) error {
	missing, err := r.missingSpares(key)
	if missing == 0 || err != nil || r.sparesFailed(key, time.Now()) {
		return err
	}
	// Whoever ends all spares from now on means the filler's, too.
	leave, err := r.Store.OpenSpares()
	if err != nil {
		return err
	}
	defer leave.Close()
	defer trace.Begin(ctx, trace.Spawn, "start the filler").End()
	conn, proc, err := r.spawnConnected(spawnOptions{
		args: []string{SparesCommand, r.Store.Root()}, files: []*os.File{nil, nil, nil, nil, leave},
		sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	defer proc.Release()
	return conn.Send(&monitor.Request{
		Op: monitor.OpSpare, Sandbox: &monitor.SandboxConfig{Root: r.Store.Root(), Exe: r.Exe, Config: *r.Config},
	}, nil)
}

// sparesFailed reports whether spares could not be made so lately that nobody
// tries again but spare create.
func (r *Runtime) sparesFailed(key spare.Key, now time.Time) bool {
	failure, err := r.Store.SpareFailure() // one that cannot be read keeps nobody
	return err == nil && failure.Machine == key.Machine && failure.Waits(now)
}

// SparesMain is the filler. It gives the exit code.
func SparesMain() int {
	conn, err := monitor.FileConn(os.NewFile(3, "parent"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "vc-runtime spares: started by hand: it is for vc-runtime's own use")
		return 1
	}
	var req monitor.Request
	if _, err := conn.Receive(&req); err != nil || req.Op != monitor.OpSpare || req.Sandbox == nil {
		return 1
	}
	conn.Close()
	store, err := state.Open(req.Sandbox.Root)
	if err != nil {
		return 1
	}
	// Out of the caller's cgroup, which may be about to be removed. Where that
	// cannot be: it will not be there for long.
	_ = spare.Detach()
	// The container that was created is about to start, and has the CPUs first.
	<-time.After(req.Sandbox.Config.Hypervisor.SpareDelay.Std())
	log := logrus.New()
	r := &Runtime{Store: store, Config: &req.Sandbox.Config, Exe: req.Sandbox.Exe, Log: log, Stderr: os.Stderr}
	err = r.refillLocked(os.NewFile(4, "spares"))
	if err == nil {
		return 0
	}
	if logFile, openErr := store.OpenSparesLog(); openErr == nil {
		defer logFile.Close()
		log.SetOutput(logFile)
		log.WithError(err).Error("no spare is made")
	}
	return 1
}

// refillLocked fills the pool, with the file that its lock is to be taken by.
func (r *Runtime) refillLocked(leave *os.File) error {
	ctx, cancel := context.WithTimeout(context.Background(), fillTimeout)
	defer cancel()
	lock, err := r.Store.LockOpenSpares(ctx, leave)
	if errors.Is(err, state.ErrNotExist) {
		return nil // nobody wants any
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	started, err := r.fill(ctx)
	for _, conn := range started {
		conn.Close()
	}
	if err == nil {
		return nil
	}
	if key, keyErr := spare.KeyOf(r.Config, r.Exe); keyErr == nil {
		err = errors.Join(err, r.Store.NoteSpareFailure(key.Machine, err))
	}
	return err
}

// FillSpares makes the template where there is none, starts the spares that are
// missing and waits until each is ready, or has failed, and for those that others
// have started.
func (r *Runtime) FillSpares(ctx context.Context) error {
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err != nil {
		return err
	}
	if err := r.Store.ForgetSpareFailure(); err != nil {
		return err
	}
	missing, err := r.missingSpares(key)
	if err == nil && missing > 0 {
		err = sandbox.NewTemplates(r.Config, r.Store.Root(), r.Exe).Ensure(ctx)
	}
	if err != nil {
		return err
	}
	started, err := r.fillOnce(ctx)
	errs := []error{err}
	ctx, cancel := context.WithTimeout(ctx, sandbox.SpareLimit(r.Config)+cleanupTimeout)
	defer cancel()
	for _, conn := range started {
		_, err := conn.Answer(ctx, monitor.OpSpare)
		errs = append(errs, err, conn.Close())
	}
	return errors.Join(append(errs, r.awaitSpares(ctx))...)
}

// awaitSpares waits for the spares that start. What becomes of those is said to
// whoever has started them.
func (r *Runtime) awaitSpares(ctx context.Context) error {
	ids, _, err := r.Store.Spares()
	if err != nil {
		return err
	}
	for _, id := range ids {
		sp, err := r.Store.Spare(id)
		if err != nil || sp.Ready {
			continue
		}
		conn, err := monitor.Dial(r.Store.SpareDir(id))
		if err != nil {
			continue
		}
		_, err = conn.Call(ctx, &monitor.Request{Op: monitor.OpSpare}, nil)
		conn.Close()
		if err != nil && ctx.Err() != nil {
			return err
		}
	}
	return nil
}

func (r *Runtime) fillOnce(ctx context.Context) ([]*monitor.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, fillTimeout)
	defer cancel()
	lock, err := r.Store.LockSpares(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	return r.fill(ctx)
}

// fill starts the spares that are missing, each once, and ends what is of no use.
// It gives a connection to each, on which that says when it is ready. The lock of
// the spares is held.
func (r *Runtime) fill(ctx context.Context) (started []*monitor.Conn, err error) {
	if err := failpoint.Here(failpoint.SpareFill); err != nil {
		return nil, err
	}
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err != nil {
		return nil, err
	}
	// What has died, was left by a filler that was killed, or is of another
	// configuration.
	_, err = spare.EndAll(ctx, r.Store, func(sp *state.Spare) bool {
		return !spare.Lives(sp) || sp.Machine != key.Machine
	})
	if err != nil {
		return nil, err
	}
	missing, err := r.missingSpares(key)
	if missing == 0 || err != nil {
		return nil, err
	}
	if err := sandbox.Room(&r.Config.Hypervisor); err != nil {
		return nil, err
	}
	for range missing {
		conn, err := r.startSpare(ctx, key)
		if err != nil {
			return started, err
		}
		started = append(started, conn)
	}
	return started, nil
}

// missingSpares is how many spares there should be beyond those that there are
// or that start.
func (r *Runtime) missingSpares(key spare.Key) (int, error) {
	ids, _, err := r.Store.Spares()
	if err != nil {
		return 0, err
	}
	missing := r.spares()
	for _, id := range ids {
		if sp, err := r.Store.Spare(id); err == nil && spare.Of(sp) == key && spare.Lives(sp) {
			missing--
		}
	}
	return max(missing, 0), nil
}

// startSpare starts the monitor of a spare, which does the rest. The lock of the
// spares is held. Nothing is left of one that fails; of what a filler leaves that
// is killed in here the next one finds the record.
func (r *Runtime) startSpare(ctx context.Context, key spare.Key) (_ *monitor.Conn, err error) {
	var random [8]byte
	rand.Read(random[:]) // never fails (crypto/rand)
	id := hex.EncodeToString(random[:])
	dir, err := r.Store.MakeSpareDir(id)
	if err != nil {
		return nil, err
	}
	rec := &state.Spare{Machine: key.Machine, Surroundings: key.Surroundings, Created: time.Now().UTC()}
	var undo cleanup
	defer func() {
		if err != nil {
			err = errors.Join(err, undo.run())
		}
	}()
	undo.push(func(ctx context.Context) error { return spare.End(ctx, r.Store, id) })
	if rec.BootID, err = state.BootID(); err != nil {
		return nil, err
	}
	cg, err := spare.NewCgroup(state.Mark(r.Store.Root(), id), id)
	if err != nil {
		return nil, err
	}
	rec.Cgroup = cg.Record()
	if err := failpoint.Here(failpoint.SpareRecord); err != nil {
		return nil, err
	}
	if err := r.Store.SaveSpare(id, rec); err != nil {
		return nil, err
	}
	undo.push(cg.Remove) // also where somebody else has ended it meanwhile
	conn, proc, err := r.spawnMonitorIn(ctx, dir, id)
	if err != nil {
		return nil, err
	}
	undo.push(func(ctx context.Context) error {
		conn.Close()
		return endChild(ctx, proc, 0)
	})
	// Before it starts anything.
	if rec.Monitor, err = state.FindProcess(proc.Pid); err != nil {
		return nil, err
	}
	if err := cg.Enter(ctx, proc.Pid); err != nil {
		return nil, err
	}
	rec.Cgroup = cg.Record()
	if err := r.Store.SaveSpare(id, rec); err != nil {
		return nil, err
	}
	if err := failpoint.Here(failpoint.SpareBrief); err != nil {
		return nil, err
	}
	return conn, conn.Send(&monitor.Request{
		Op: monitor.OpSpare, Sandbox: &monitor.SandboxConfig{ID: id, Root: r.Store.Root(), Exe: r.Exe, Config: *r.Config, Spare: true},
	}, nil)
}

// EndSpares ends all spares of the root, those that start too, and those that
// creates until now have others make.
func (r *Runtime) EndSpares(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
	defer cancel()
	wait, stop := context.WithTimeout(ctx, cleanupTimeout/2)
	defer stop()
	lock, err := r.Store.LockSpares(wait)
	if err == nil {
		defer lock.Close()
	}
	_, endErr := spare.EndAll(ctx, r.Store, spare.All) // whoever hangs with the lock
	err = errors.Join(err, endErr)
	if lock != nil {
		err = errors.Join(err, lock.Remove())
	}
	return err
}
