package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
)

// maxRooms is how many rooms of a machine are kept that nobody waits for.
const maxRooms = 16

// rooms are what is kept for containers that join a machine which lives, as the
// machine is for the one that it was started for (keeping): the memory and CPUs that
// are plugged, or being plugged, for a create. All else of that goes with its shim.
// The sandbox's mu guards them.
type rooms struct {
	by   map[string]*reservation // by the container's id, while somebody claims it or may do so again
	left uint64                  // counts those that were left alone
}

// reservation is the room of one create.
type reservation struct {
	id    string
	key   resourcecache.Key
	state resourcecache.State

	// ctx is what the machine grows in for it, which outlives the caller; end ends it.
	ctx context.Context
	end context.CancelFunc

	asked  bool             // how much it is has been told: the sizer has its demand
	growth *growth          // the latest one
	number uint64           // by which the oldest is found, while it is unclaimed
	record *state.Unclaimed // while it is unclaimed
	over   chan struct{}    // closed when it is not unclaimed any more
}

// growth is what one create has waited for.
type growth struct {
	done chan struct{} // closed when err is set
	err  error
}

// enterRoom is called with mu held when the container is claimed. The same request
// gets the room that was kept for it; for another one it is given up. key is "" for
// one that nothing is to be kept for.
func (s *Sandbox) enterRoom(id string, key resourcecache.Key) {
	if r := s.rooms.by[id]; r != nil {
		if r.key == key && s.stepRoom(r, resourcecache.Adopt) {
			s.log.WithField("container", id).Info("the room in the machine is adopted")
			return
		}
		s.endRoom(r, resourcecache.GiveUp)
	}
	if key == "" || id == s.cfg.ID { // nothing outlives who stands for the pod
		return
	}
	r := &reservation{id: id, key: key, state: resourcecache.Creating}
	r.ctx, r.end = context.WithCancel(context.Background())
	s.rooms.by[id] = r
}

// makeRoom has the machine grow for a container that is being created. The result
// waits for that. What joins goes on growing without its create, for as long as its
// room is kept.
func (s *Sandbox) makeRoom(ctx context.Context, m *Machine, id string, d size.Demand) (wait func() error) {
	g := &growth{done: make(chan struct{})}
	s.mu.Lock()
	growing, r := ctx, s.rooms.by[id]
	if r != nil {
		growing, r.asked, r.growth = r.ctx, d != size.Demand{}, g
	}
	s.size.set(id, d)
	s.mu.Unlock()
	go func() { // ends with ctx, or with the room
		err := s.fit(growing, m, id)
		s.mu.Lock()
		defer s.mu.Unlock()
		g.err = err
		close(g.done)
		if r != nil && err != nil && r.growth == g && r.state == resourcecache.Unclaimed {
			s.log.WithError(err).WithField("container", id).Warn("make room for who has gone")
			s.evictRoom(r, resourcecache.Fail)
		}
	}()
	return func() error {
		select {
		case <-g.done:
			return g.err
		case <-ctx.Done():
			return fmt.Errorf("wait for the virtual machine to grow: %w", context.Cause(ctx))
		}
	}
}

// fit has the machine grow for a container. Rooms that nobody waits for give way,
// the oldest first.
func (s *Sandbox) fit(ctx context.Context, m *Machine, id string) error {
	return s.size.fit(ctx, m, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		own := s.rooms.by[id]
		if ctx.Err() != nil || own != nil && own.state == resourcecache.Unclaimed {
			return false // nobody waits for this one either
		}
		r := s.oldestRoom()
		if r == nil {
			return false
		}
		s.evictRoom(r, resourcecache.GiveUp)
		return true
	})
}

// takeRoom is for a container whose claim is made good: the room is its own.
func (s *Sandbox) takeRoom(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms.by[id]; r != nil {
		s.endRoom(r, resourcecache.Acknowledge)
	}
}

// leaveRoom is called with mu held when a claim ends without having been made good.
// It reports whether the room is kept, which is recorded then.
func (s *Sandbox) leaveRoom(id string) bool {
	r := s.rooms.by[id]
	if r == nil {
		return false
	}
	if !s.mayKeepRoom(r) {
		s.endRoom(r, resourcecache.GiveUp)
		return false
	}
	d := s.cfg.Config.Runtime.UnclaimedTimeout.Std()
	timer, err := newBootTimer(d)
	if err == nil {
		r.record = &state.Unclaimed{ID: id, Sandbox: s.cfg.ID}
		if err = s.saveUnclaimed(r.record, d); err != nil {
			timer.Close()
		}
	}
	if err != nil {
		s.log.WithError(err).WithField("container", id).Warn("the room in the machine is not kept")
		s.endRoom(r, resourcecache.Fail)
		return false
	}
	s.stepRoom(r, resourcecache.CallerGone)
	s.rooms.left++
	r.number, r.over = s.rooms.left, make(chan struct{})
	if s.unclaimedRooms() > maxRooms {
		s.evictRoom(s.oldestRoom(), resourcecache.GiveUp)
	}
	s.log.WithField("container", id).Info("the room in the machine is kept for the same request")
	go s.keepRoom(r, r.over, r.growth.done, timer)
	return true
}

// mayKeepRoom is called with mu held: there has to be some, and a machine that goes
// on without the container.
func (s *Sandbox) mayKeepRoom(r *reservation) bool {
	others := len(s.containers) + len(s.claims)
	if s.containers[r.id] != nil {
		others--
	}
	if s.claims[r.id] != nil {
		others--
	}
	failed := r.growth != nil && isClosed(r.growth.done) && r.growth.err != nil
	return r.state == resourcecache.Creating && r.asked && !failed && others > 0 && !s.ended
}

// keepRoom waits for the end of the time in which a room is kept. A guest that does
// not take what is plugged, though it has had the time of a call, would keep others
// from growing.
func (s *Sandbox) keepRoom(r *reservation, over, grown <-chan struct{}, timer *bootTimer) {
	defer timer.Close()
	cause := resourcecache.Fail
	late := time.NewTimer(s.cfg.Config.Runtime.CallTimeout.Std())
	defer late.Stop()
	select {
	case <-over:
		return
	case <-timer.C:
		cause = resourcecache.Expire
	case <-late.C:
	case <-grown:
		select {
		case <-over:
			return
		case <-timer.C:
			cause = resourcecache.Expire
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isClosed(over) {
		s.evictRoom(r, cause)
	}
}

// giveUpRoom gives up what is kept for a container, or would be.
func (s *Sandbox) giveUpRoom(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.rooms.by[id]; r != nil {
		s.endRoom(r, resourcecache.GiveUp)
	}
}

// endRooms gives up all: the machine ends.
func (s *Sandbox) endRooms() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rooms.by {
		s.endRoom(r, resourcecache.GiveUp)
	}
}

// evictRoom gives up a room that is kept, and which nobody has asked about: whoever
// runs the runtime next removes what is on disk. mu is held.
func (s *Sandbox) evictRoom(r *reservation, e resourcecache.Event) {
	if !s.endRoom(r, e) {
		return
	}
	u, err := s.store.Unclaimed(r.id)
	if err == nil && u.Sandbox == r.record.Sandbox && u.Until == r.record.Until { // not a later one
		err = s.markUnclaimed(r.id, 0)
	}
	if err != nil && !errors.Is(err, state.ErrNotExist) {
		s.log.WithError(err).WithField("container", r.id).Warn("record that room is given up")
	}
}

// endRoom has nothing kept for the container any more, and is false where that cannot
// be. What it demands goes, too, unless the container is there. mu is held.
func (s *Sandbox) endRoom(r *reservation, e resourcecache.Event) bool {
	if !s.stepRoom(r, e) {
		return false
	}
	if r.record != nil && e != resourcecache.Acknowledge {
		s.log.WithField("container", r.id).WithField("cause", e).Info("the room in the machine is no longer kept")
	}
	delete(s.rooms.by, r.id)
	r.end()
	if s.containers[r.id] == nil {
		s.size.drop(r.id)
	}
	return true
}

// stepRoom moves a room on in the cache, and is false for what cannot be. mu is held.
func (s *Sandbox) stepRoom(r *reservation, e resourcecache.Event) bool {
	next, err := r.state.Next(e)
	if err != nil {
		return false
	}
	if r.state == resourcecache.Unclaimed {
		close(r.over)
	}
	r.state = next
	return true
}

// unclaimedRooms counts those that nobody waits for. mu is held.
func (s *Sandbox) unclaimedRooms() int {
	n := 0
	for _, r := range s.rooms.by {
		if r.state == resourcecache.Unclaimed {
			n++
		}
	}
	return n
}

// oldestRoom is the one that nobody has waited for for the longest time, nil for
// none. mu is held.
func (s *Sandbox) oldestRoom() *reservation {
	var oldest *reservation
	for _, r := range s.rooms.by {
		if r.state == resourcecache.Unclaimed && (oldest == nil || r.number < oldest.number) {
			oldest = r
		}
	}
	return oldest
}
