package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
)

// keeping is the time in which nobody waits for the sandbox, and it is kept for
// the same create to come again (package resourcecache). What is kept is the
// machine, which is what takes the time; the container that had been made for the
// caller goes with its shim, which has that caller's stdio.
type keeping struct {
	ready   chan struct{} // closed when it can be adopted, or will not be
	adopted chan struct{} // closed when somebody has come
}

// errOther is the answer to a request that is not the one which the sandbox was
// made for.
var errOther = fmt.Errorf("the sandbox is kept for another request: %w", unix.EKEYREJECTED)

// callerGone is what the end of a claim comes to that was not made good: the
// container, if there is one, has to end. The sandbox is kept, or ends with it.
func (s *Sandbox) callerGone(id string) {
	s.mu.Lock()
	keep := s.mayKeep(id)
	room := s.leaveRoom(id)
	s.mu.Unlock()
	// Before anybody else can claim the id: the record is for this claim.
	until := time.Duration(0)
	if keep {
		until = s.cfg.Config.Runtime.UnclaimedTimeout.Std()
	}
	if !room {
		if err := s.markUnclaimed(id, until); err != nil {
			s.log.WithError(err).Warn("the sandbox is not kept")
			keep = false
		}
	}

	s.mu.Lock()
	var k *keeping
	if keep = keep && s.mayKeep(id); keep {
		s.step(resourcecache.CallerGone)
		k = &keeping{ready: make(chan struct{}), adopted: make(chan struct{})}
		s.kept = k
	}
	c := s.dropClaimLocked(id)
	s.mu.Unlock()
	if c != nil {
		c.log.Info("nobody claimed the container: ending it")
		c.kill()
	}
	if keep {
		s.log.Info("the sandbox is kept for the same request")
		s.keep(k, c, until)
	}
}

// mayKeep is called with mu held: only a sandbox is kept that has, and was
// started for, this one container.
func (s *Sandbox) mayKeep(id string) bool {
	others := len(s.containers)
	if s.containers[id] != nil {
		others--
	}
	return s.cfg.Key != "" && id == s.first && s.cache == resourcecache.Creating && !s.ended &&
		len(s.claims) == 1 && others == 0 && (s.booting() || s.bootErr == nil)
}

// step moves the sandbox on in the cache. It is called with mu held, and gives
// false for what cannot be: then nothing has changed.
func (s *Sandbox) step(e resourcecache.Event) bool {
	next, err := s.cache.Next(e)
	if err != nil {
		return false
	}
	s.cache = next
	return true
}

// keep waits for the same request, for as long as that makes sense.
func (s *Sandbox) keep(k *keeping, c *container, d time.Duration) {
	if err := s.strip(c); err != nil {
		s.log.WithError(err).Warn("the sandbox is not kept")
		s.giveUp(resourcecache.Fail)
		close(k.ready)
		return
	}
	close(k.ready)
	// The time begins with the machine: until then it waits for its turn or boots,
	// which has limits of its own.
	booted := s.booted
	var died <-chan struct{}
	for {
		timer, err := newBootTimer(d)
		if err == nil {
			err = s.prolong(d)
		}
		if err != nil {
			s.log.WithError(err).Warn("the sandbox is not kept")
			s.giveUp(resourcecache.Fail)
			return
		}
		over := false
		select {
		case <-booted:
			if over = s.bootErr != nil; over {
				s.giveUp(resourcecache.Fail)
				break
			}
			booted, died = nil, s.machine.VM.Done()
		case <-timer.C:
			if over = booted == nil; over {
				s.giveUp(resourcecache.Expire)
			}
		case <-died:
			over = true
			s.giveUp(resourcecache.Fail)
		case <-k.adopted:
			over = true
		case <-s.idle:
			over = true
		}
		timer.Close()
		if over {
			return
		}
	}
}

// prolong records until when the sandbox is kept, if it still is: who adopts it
// removes that record, and must not find a later one.
func (s *Sandbox) prolong(d time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cache != resourcecache.Unclaimed {
		return nil
	}
	return s.markUnclaimed(s.first, d)
}

// strip takes everything from the machine that belonged to the caller who has
// gone: the container, its share and its devices, and a network namespace that
// was the container's own.
func (s *Sandbox) strip(c *container) error {
	if c == nil {
		return nil
	}
	r := &s.cfg.Config.Runtime
	ctx, cancel := context.WithTimeout(context.Background(), r.KillTimeout.Std()+r.FlushTimeout.Std()+2*r.TeardownTimeout.Std())
	defer cancel()
	select {
	case <-c.removed:
	case <-ctx.Done():
		return errors.New("the container does not end")
	}
	if err := c.left(); err != nil {
		return err
	}
	if s.cfg.OwnNetwork {
		return s.net.leave()
	}
	return nil
}

// giveUp ends a sandbox that is kept, or is about to be.
func (s *Sandbox) giveUp(e resourcecache.Event) {
	s.mu.Lock()
	ok := s.step(e)
	s.endIfIdle()
	s.mu.Unlock()
	if !ok {
		return
	}
	s.log.WithField("cause", e).Info("the sandbox is given up")
	if e == resourcecache.GiveUp {
		return // who does not want it removes what is on disk, too
	}
	// Whoever runs the runtime next does.
	if err := s.markUnclaimed(s.first, 0); err != nil {
		s.log.WithError(err).Warn("record that the sandbox is given up")
	}
}

// markUnclaimed records that there is no container id, though something of it is
// there: for d still, or none at all.
func (s *Sandbox) markUnclaimed(id string, d time.Duration) error {
	return s.saveUnclaimed(&state.Unclaimed{ID: id}, d)
}

// saveUnclaimed completes a record and writes it.
func (s *Sandbox) saveUnclaimed(u *state.Unclaimed, d time.Duration) error {
	now, err := state.SinceBoot()
	if err != nil {
		return err
	}
	if u.BootID, err = state.BootID(); err != nil {
		return err
	}
	u.Until = now + d
	return s.store.SaveUnclaimed(u)
}

// tryAdopt is tryClaim with the key of a request, called with mu held: it gives
// what is kept to the same request.
func (s *Sandbox) tryAdopt(id, key string) (wait <-chan struct{}, err error) {
	switch {
	case s.claims[id] != nil: // the caller has just gone
		return s.claims[id], nil
	case s.cache != resourcecache.Unclaimed || id != s.first || key != s.cfg.Key:
		return nil, errOther
	case !isClosed(s.kept.ready):
		return s.kept.ready, nil
	}
	s.step(resourcecache.Adopt)
	close(s.kept.adopted)
	s.kept = nil
	s.claims[id] = make(chan struct{})
	s.log.Info("the sandbox is adopted")
	return nil, nil
}

// tryTakeOver is tryClaim for what is kept, called with mu held: the machine of a
// pod that a member has started is for any other member as well. Nobody has, or
// will have, the container of one that stood for its pod itself.
func (s *Sandbox) tryTakeOver(id string) (wait <-chan struct{}, err error) {
	switch {
	case s.first == s.cfg.ID:
		return nil, errEnding
	case !isClosed(s.kept.ready):
		return s.kept.ready, nil
	}
	s.step(resourcecache.Adopt)
	close(s.kept.adopted)
	s.kept = nil
	s.first, s.cfg.Key = id, "" // who it was kept for joins the pod as others do
	s.claims[id] = make(chan struct{})
	s.log.WithField("container", id).Info("another container of the pod has the sandbox now")
	return nil, nil
}

// bootTimer is a timer that goes on while the host is suspended
// (timerfd_create(2), CLOCK_BOOTTIME).
type bootTimer struct {
	C    <-chan struct{} // closed when the time has come
	file *os.File
	done chan struct{}
}

func newBootTimer(d time.Duration) (*bootTimer, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer: %w", err)
	}
	file := os.NewFile(uintptr(fd), "timerfd")
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(1, d.Nanoseconds()))}
	if err := unix.TimerfdSettime(fd, 0, &spec, nil); err != nil {
		file.Close()
		return nil, fmt.Errorf("set a timer: %w", err)
	}
	c := make(chan struct{})
	t := &bootTimer{C: c, file: file, done: make(chan struct{})}
	go func() { // until Close
		defer close(t.done)
		var ticks [8]byte
		if _, err := file.Read(ticks[:]); err == nil && binary.NativeEndian.Uint64(ticks[:]) > 0 {
			close(c)
		}
	}()
	return t, nil
}

// Close stops the timer.
func (t *bootTimer) Close() error {
	err := t.file.Close()
	<-t.done
	return err
}
