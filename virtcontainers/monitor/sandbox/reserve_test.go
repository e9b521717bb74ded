package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/resourcecache"
	"github.com/vc-runtime/vc-runtime/virtcontainers/size"
)

// roomVM is a machine that writes down what is plugged into it and put to use in it.
type roomVM struct {
	hypervisor.VM // anything else is not called
	Guest
	begun chan struct{} // has one for each plug that has begun
	goOn  chan struct{} // nobody has to wait for it once it is closed
	hangs bool          // the guest does not answer
	err   error         // what the guest answers

	mu    sync.Mutex
	steps []string
}

func (v *roomVM) Done() <-chan struct{} { return nil }

func (v *roomVM) note(step string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.steps = append(v.steps, step)
}

func (v *roomVM) taken() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.steps)
}

func (v *roomVM) AddMemory(_ context.Context, mib int) error {
	v.note(fmt.Sprintf("+%dM", mib))
	v.begun <- struct{}{}
	<-v.goOn
	return nil
}

func (v *roomVM) OnlineResources(ctx context.Context, r *api.OnlineResourcesRequest) (*api.Empty, error) {
	if v.hangs {
		<-ctx.Done()
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	v.note(fmt.Sprintf("%d/%dM", r.Cpus, r.Memory))
	return nil, v.err
}

func (v *roomVM) UpdateContainer(context.Context, *api.UpdateContainerRequest) (*api.Empty, error) {
	return nil, nil
}

// roomBench is a pod that lives, with room for 144 MiB.
type roomBench struct {
	*Sandbox
	t  *testing.T
	vm *roomVM
	m  *Machine
}

func newRoomBench(t *testing.T) *roomBench {
	t.Helper()
	vm := &roomVM{begun: make(chan struct{}, 99), goOn: make(chan struct{})}
	b := &roomBench{t: t, vm: vm, Sandbox: podSandbox(t, vm, vm)}
	b.size, _, _ = newGrowing(nil)
	b.m = b.machine
	t.Cleanup(b.endRooms)
	return b
}

// grows lets what is plugged be there at once.
func (b *roomBench) grows() *roomBench { close(b.vm.goOn); return b }

func (b *roomBench) enter(id string, key resourcecache.Key) {
	b.t.Helper()
	if err := b.claim(b.t.Context(), id, "", key); err != nil {
		b.t.Fatal(err)
	}
}

// cutOff has the caller of a create go that wants so many MiB, whose machine has begun
// to grow, or has if it does so at once.
func (b *roomBench) cutOff(id string, key resourcecache.Key, mib uint64) *reservation {
	b.t.Helper()
	b.enter(id, key)
	return b.cutOffEntered(id, mib)
}

func (b *roomBench) cutOffEntered(id string, mib uint64) *reservation {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	wait := b.makeRoom(ctx, b.m, id, size.Demand{Memory: mib << 20})
	if isClosed(b.vm.goOn) {
		if err := wait(); err != nil {
			b.t.Fatal(err)
		}
	} else {
		<-b.vm.begun
	}
	cancel()
	b.mu.Lock()
	r := b.rooms.by[id]
	b.mu.Unlock()
	b.callerGone(id)
	return r
}

// grown makes room for a create, and waits for it.
func (b *roomBench) grown(id string, mib uint64) {
	b.t.Helper()
	if err := b.makeRoom(b.t.Context(), b.m, id, size.Demand{Memory: mib << 20})(); err != nil {
		b.t.Errorf("%s: %v", id, err)
	}
}

func (b *roomBench) stateOf(r *reservation) resourcecache.State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return r.state
}

// kept checks for which containers room is kept that nobody waits for.
func (b *roomBench) kept(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var got []string
	for id, r := range b.rooms.by {
		if r.state == resourcecache.Unclaimed {
			got = append(got, id)
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		b.t.Errorf("room is kept for %q, expected %q", got, want)
	}
	for _, id := range want {
		if u, err := b.store.Unclaimed(id); err != nil || u.Sandbox != "pod" || u.Until == 0 {
			b.t.Errorf("the record of %s: %+v, %v", id, u, err)
		}
	}
}

// counted checks whose demands make the machine's size.
func (b *roomBench) counted(want ...string) {
	b.t.Helper()
	b.size.mu.Lock()
	defer b.size.mu.Unlock()
	if got := slices.Sorted(maps.Keys(b.size.demands)); !slices.Equal(got, want) {
		b.t.Errorf("the demands of %q count, expected %q", got, want)
	}
}

func (b *roomBench) did(want ...string) {
	b.t.Helper()
	if got := b.vm.taken(); !slices.Equal(got, want) {
		b.t.Errorf("the machine did %q, expected %q", got, want)
	}
}

func (b *roomBench) noRecord(id string) {
	b.t.Helper()
	if u, err := b.store.Unclaimed(id); !errors.Is(err, state.ErrNotExist) {
		b.t.Errorf("the record of %s: %+v, %v", id, u, err)
	}
}

// toGo checks that there is a record which has the next command clean up.
func (b *roomBench) toGo(id string) {
	b.t.Helper()
	b.mu.Lock() // until who gives it up has written that
	defer b.mu.Unlock()
	now, err := state.SinceBoot()
	if err != nil {
		b.t.Fatal(err)
	}
	if u, err := b.store.Unclaimed(id); err != nil || u.Sandbox != "" || u.Until > now {
		b.t.Errorf("the record of %s: %+v, %v, expected an expired one", id, u, err)
	}
}

// TestRoomAdopted has the same request come again, while the machine grows for the
// one that was cut off and after that: it grows once, and the guest takes what there
// is although nobody waits for it.
func TestRoomAdopted(t *testing.T) {
	for _, while := range []bool{true, false} {
		t.Run(fmt.Sprintf("while it grows=%t", while), func(t *testing.T) {
			b := newRoomBench(t)
			r := b.cutOff("c", "k", 200)
			b.kept("c")
			if _, err := b.container("c"); !errors.Is(err, unix.ESRCH) {
				t.Errorf("there is a container: %v", err)
			}
			if !while {
				close(b.vm.goOn)
				<-r.growth.done
				b.did("+256M", "1/512M")
			}
			b.enter("c", "k")
			if got := b.stateOf(r); got != resourcecache.Creating {
				t.Errorf("it is %s", got)
			}
			b.kept()
			b.noRecord("c")
			wait := b.makeRoom(t.Context(), b.m, "c", size.Demand{Memory: 200 << 20})
			if while {
				close(b.vm.goOn)
			}
			if err := wait(); err != nil {
				t.Error(err)
			}
			b.did("+256M", "1/512M")
			c := &container{id: "c", s: b.Sandbox, removed: make(chan struct{})}
			b.containers["c"] = c
			b.takeRoom("c")
			b.dropClaim("c")
			b.counted("c")
			b.remove(c)
			b.counted()
			if len(b.rooms.by) != 0 || r.ctx.Err() == nil {
				t.Errorf("left: %v", b.rooms.by)
			}
		})
	}
}

// TestRoomIsLeftAgain has the one who adopts a room go as well.
func TestRoomIsLeftAgain(t *testing.T) {
	b := newRoomBench(t).grows()
	r := b.cutOff("c", "k", 200)
	b.enter("c", "k")
	b.callerGone("c") // before it has asked
	b.kept("c")
	b.enter("c", "k")
	if again := b.cutOffEntered("c", 200); again != r {
		t.Error("it is another one")
	}
	b.kept("c")
	b.did("+256M", "1/512M")
	b.counted("c")
}

// TestRoomOfAnother: neither another request of that id nor the same one of another
// id gets it. The first has it given up.
func TestRoomOfAnother(t *testing.T) {
	b := newRoomBench(t)
	r := b.cutOff("c", "k", 200)
	b.enter("d", "k")
	b.kept("c")
	b.enter("c", "other")
	b.kept()
	b.counted()
	if got := b.stateOf(r); got != resourcecache.Abandoned {
		t.Errorf("it is %s", got)
	}
	b.noRecord("c")
	close(b.vm.goOn) // what QEMU was asked for is there, and counts
	<-r.growth.done
	if !errors.Is(r.growth.err, context.Canceled) {
		t.Errorf("it has grown for who has gone: %v", r.growth.err)
	}
	b.did("+256M")
	b.grown("c", 200)
	b.did("+256M", "1/512M")
	b.counted("c")
	b.callerGone("c")
	b.kept("c")

	b.enter("c", "") // one that nothing is kept for
	b.kept()
	b.counted()
	b.callerGone("c")
	b.kept()
}

// TestRoomExpires has nobody come in time. What has been adopted does not expire.
func TestRoomExpires(t *testing.T) {
	b := newRoomBench(t).grows()
	b.cfg.Config.Runtime.UnclaimedTimeout = config.Seconds(0.01)
	r := b.cutOff("c", "k", 200)
	within(t, r.over, "the end of its time")
	if got := b.stateOf(r); got != resourcecache.Abandoned {
		t.Errorf("it is %s", got)
	}
	b.counted()
	b.toGo("c")

	b.cfg.Config.Runtime.UnclaimedTimeout = config.Seconds(1000)
	for i := range 20 {
		r = b.cutOff(fmt.Sprint(i), "k", 1)
		over := r.over
		b.enter(r.id, "k")
		timer, err := newBootTimer(0)
		if err != nil {
			t.Fatal(err)
		}
		<-timer.C
		b.callerGone(r.id) // anew
		b.keepRoom(r, over, r.growth.done, timer)
		if got := b.stateOf(r); got != resourcecache.Unclaimed {
			t.Fatalf("adopted and left, it is %s", got)
		}
		b.giveUpRoom(r.id)
	}
}

// TestRecordOfAnotherRoom: who gives room up by himself leaves a record that is not of
// that.
func TestRecordOfAnotherRoom(t *testing.T) {
	for name, other := range map[string]*state.Unclaimed{
		"sandbox": {ID: "c", Sandbox: "other", Until: 7},
		"time":    {ID: "c", Sandbox: "pod", Until: 7},
	} {
		b := newRoomBench(t).grows()
		r := b.cutOff("c", "k", 200)
		if name == "sandbox" {
			other.Until = r.record.Until
		}
		if err := b.store.SaveUnclaimed(other); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.evictRoom(r, resourcecache.Expire)
		b.mu.Unlock()
		if u, err := b.store.Unclaimed("c"); err != nil || u.Sandbox != other.Sandbox || u.Until != other.Until {
			t.Errorf("another %s: %+v, %v", name, u, err)
		}
		b.kept()
	}
}

// TestRoomInAGuestThatHangs: who has gone does not keep others from growing.
func TestRoomInAGuestThatHangs(t *testing.T) {
	b := newRoomBench(t)
	b.vm.hangs = true
	b.cfg.Config.Runtime.CallTimeout = config.Seconds(0.01)
	r := b.cutOff("c", "k", 200)
	close(b.vm.goOn)
	within(t, r.growth.done, "the end of the growth")
	within(t, r.over, "the end of the room")
	b.vm.hangs = false
	b.enter("d", "k")
	b.grown("d", 200)
	b.did("+256M", "1/512M")
}

// TestRoomThatCannotBeMade: what has failed is not kept, whether the caller has gone
// by then or not. One who has adopted it makes it anew.
func TestRoomThatCannotBeMade(t *testing.T) {
	b := newRoomBench(t)
	b.vm.err = unix.EIO
	r := b.cutOff("c", "k", 200)
	b.kept("c")
	close(b.vm.goOn)
	within(t, r.over, "the end of the room")
	b.kept()
	b.counted()
	b.toGo("c")

	b.enter("c", "k")
	if err := b.makeRoom(t.Context(), b.m, "c", size.Demand{Memory: 200 << 20})(); !errors.Is(err, unix.EIO) {
		t.Errorf("got %v", err)
	}
	b.callerGone("c")
	b.kept()
	b.counted()

	b = newRoomBench(t)
	b.vm.err = unix.EIO
	r = b.cutOff("c", "k", 200)
	first := r.growth
	b.enter("c", "k")
	close(b.vm.goOn)
	<-first.done
	b.vm.err = nil
	b.counted("c")
	b.grown("c", 200)
	b.did("+256M", "1/512M", "1/512M")
}

// TestRoomIsGivenUp by a request that says so: of a delete, of a create that has
// failed. One that was too slow has it kept.
func TestRoomIsGivenUp(t *testing.T) {
	ask := func(b *roomBench, serve func(*monitor.Conn), req *monitor.Request) {
		b.t.Helper()
		conn, ours := shimPair(b.t)
		done := make(chan struct{})
		go func() { defer close(done); serve(ours) }()
		if _, err := conn.Call(b.t.Context(), req, nil); err != nil {
			b.t.Error(err)
		}
		<-done
	}
	t.Run("delete", func(t *testing.T) {
		b := newRoomBench(t).grows()
		r := b.cutOff("c", "k", 200)
		b.cutOff("d", "k", 1)
		ask(b, b.serve, &monitor.Request{Op: monitor.OpAbandon, Container: "c"})
		b.kept("d")
		b.counted("d")
		if r.ctx.Err() == nil {
			t.Error("it may grow still")
		}
		ask(b, b.serve, &monitor.Request{Op: monitor.OpAbandon, Container: "none"})
		b.kept("d")
	})
	t.Run("delete before its caller is known to have gone", func(t *testing.T) {
		b := newRoomBench(t).grows()
		b.enter("c", "k")
		b.grown("c", 200)
		ask(b, b.serve, &monitor.Request{Op: monitor.OpAbandon, Container: "c"})
		b.callerGone("c")
		b.kept()
		b.counted()
	})
	for name, tt := range map[string]struct {
		room string
		kept []string
	}{"failed": {"", nil}, "too slow": {"k", []string{"c"}}} {
		t.Run(name, func(t *testing.T) {
			b := newRoomBench(t).grows()
			b.enter("c", "k")
			b.grown("c", 200)
			ask(b, func(conn *monitor.Conn) { b.serveClaim(conn, "c") }, &monitor.Request{Op: monitor.OpAbandon, Container: "c", Room: tt.room})
			b.kept(tt.kept...)
			b.counted(tt.kept...)
			if b.claims["c"] != nil {
				t.Error("it is claimed")
			}
		})
	}
	t.Run("its claimant has died", func(t *testing.T) {
		b := newRoomBench(t).grows()
		b.enter("c", "k")
		b.grown("c", 200)
		conn, ours := shimPair(t)
		conn.Close()
		b.serveClaim(ours, "c")
		b.kept("c")
	})
	t.Run("who claims has gone before the answer", func(t *testing.T) {
		b := newRoomBench(t).grows()
		b.cutOff("c", "k", 200)
		conn, ours := shimPair(t)
		if err := conn.Send(&monitor.Request{Op: monitor.OpClaim, Container: "c", Room: "k"}, nil); err != nil {
			t.Fatal(err)
		}
		conn.Close()
		b.serve(ours)
		b.kept("c")
		if b.claims["c"] != nil {
			t.Error("it is claimed")
		}
	})
	t.Run("claimed", func(t *testing.T) {
		b := newRoomBench(t).grows()
		b.enter("c", "k")
		b.grown("c", 200)
		c := &container{id: "c", s: b.Sandbox, removed: make(chan struct{})}
		b.containers["c"] = c
		ask(b, func(conn *monitor.Conn) { b.serveClaim(conn, "c") }, &monitor.Request{Op: monitor.OpClaimed, Container: "c"})
		b.kept()
		b.counted("c")
		b.remove(c)
		b.counted()
	})
	t.Run("claimed when the container has gone", func(t *testing.T) {
		b := newRoomBench(t).grows()
		b.enter("c", "k")
		b.grown("c", 200)
		b.takeRoom("c")
		b.counted()
	})
	t.Run("claimed without a container", func(t *testing.T) {
		b := newRoomBench(t).grows()
		b.enter("c", "k")
		b.grown("c", 200)
		conn, ours := shimPair(t)
		done := make(chan struct{})
		go func() { defer close(done); b.serveClaim(ours, "c") }()
		if _, err := conn.Call(t.Context(), &monitor.Request{Op: monitor.OpClaimed, Container: "c"}, nil); !errors.Is(err, unix.ESRCH) {
			t.Errorf("got %v", err)
		}
		<-done
		b.counted()
		if len(b.rooms.by) != 0 {
			t.Errorf("left: %v", b.rooms.by)
		}
	})
}

// TestRoomOutlivesContainer: the container goes with its shim, and what it has
// demanded stays. Another one of that id waits for it to go.
func TestRoomOutlivesContainer(t *testing.T) {
	b := newRoomBench(t).grows()
	c := &container{id: "c", s: b.Sandbox, log: b.log, killed: make(chan struct{}), removed: make(chan struct{}), shimGone: make(chan struct{})}
	b.enter("c", "k")
	b.containers["c"] = c
	b.cutOffEntered("c", 200)
	if !c.isKilled() {
		t.Error("the container is not ended")
	}
	b.kept("c")
	if gone, err := b.tryClaim("c", "", "k"); gone != c.removed || err != nil {
		t.Errorf("it can be claimed while the container is there: %v", err)
	}
	b.kept("c")
	b.remove(c)
	b.counted("c")
	b.giveUpRoom("c")
	b.counted()

	c.removed = make(chan struct{})
	b.enter("c", "k")
	b.containers["c"] = c
	b.grown("c", 200)
	b.giveUpRoom("c")
	b.counted("c") // it uses that until it has gone
	b.remove(c)
	b.counted()
}

// TestRoomGivesWay: who needs room gets that of those who have gone, the oldest first,
// before the machine grows. What somebody waits for stays, and nothing goes for one
// who has gone as well.
func TestRoomGivesWay(t *testing.T) {
	b := newRoomBench(t).grows()
	b.enter("busy", "k")
	b.grown("busy", 100) // of 512 - 256
	b.did()
	for _, id := range []string{"z", "y", "x"} {
		b.cutOff(id, "k", 50)
	}
	b.did("+256M", "1/512M")
	b.enter("d", "k")
	b.grown("d", 60) // 310 MiB of 256
	b.kept("x")      // 310 - 100
	b.counted("busy", "d", "x")
	b.did("+256M", "1/512M")
	b.toGo("z")
	b.toGo("y")
	b.grown("d", 150)
	b.kept()
	b.did("+256M", "1/512M")
	b.grown("d", 500) // there is nothing more to be had
	b.did("+256M", "1/512M", "+384M", "1/896M")
	b.enter("z", "k") // begins anew
	b.grown("z", 40)
	b.counted("busy", "d", "z")
	b.did("+256M", "1/512M", "+384M", "1/896M")

	b = newRoomBench(t).grows()
	b.cutOff("old", "k", 100)
	<-b.size.turn // somebody is at it
	ctx, cancel := context.WithCancel(t.Context())
	b.enter("new", "k")
	wait := b.makeRoom(ctx, b.m, "new", size.Demand{Memory: 100 << 20})
	b.callerGone("new")
	cancel()
	if err := wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.size.turn <- struct{}{}
	<-b.rooms.by["new"].growth.done
	b.kept("new", "old")
	b.did("+256M", "1/512M")
}

// TestRoomOfAnUpdate has an update need room.
func TestRoomOfAnUpdate(t *testing.T) {
	b := newRoomBench(t).grows()
	b.cutOff("c", "k", 140)
	other := &container{id: "other", s: b.Sandbox}
	if err := other.update(t.Context(), &monitor.Request{Demand: size.Demand{Memory: 100 << 20}}); err != nil {
		t.Error(err)
	}
	b.kept()
	b.counted("other")
	b.did()
}

// TestRoomsAreFew: with one more than may be kept the oldest goes.
func TestRoomsAreFew(t *testing.T) {
	b := newRoomBench(t).grows()
	var ids []string
	for i := range maxRooms + 2 {
		id := fmt.Sprintf("c%02d", i)
		b.cutOff(id, "k", 1)
		ids = append(ids, id)
	}
	b.kept(ids[2:]...)
	b.counted(ids[2:]...)
	b.toGo(ids[0])
}

// TestNoRoomIsKept where there is none, or no machine for it.
func TestNoRoomIsKept(t *testing.T) {
	for name, leave := range map[string]func(*roomBench){
		"has not asked": func(b *roomBench) { b.enter("c", "k"); b.callerGone("c") },
		"no limits":     func(b *roomBench) { b.cutOff("c", "k", 0) },
		"no key":        func(b *roomBench) { b.cutOff("c", "", 200) },
		"stands for the pod": func(b *roomBench) {
			b.cfg.ID = "c"
			b.cutOff("c", "k", 200)
		},
		"the only one": func(b *roomBench) {
			delete(b.containers, "other")
			b.cutOff("c", "k", 200)
			if !b.ended {
				b.t.Error("the machine goes on")
			}
		},
		"cannot be recorded": func(b *roomBench) {
			b.enter("c", "k")
			b.store = &state.Store{}
			b.cutOffEntered("c", 200)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRoomBench(t).grows()
			leave(b)
			b.kept()
			b.mu.Lock()
			defer b.mu.Unlock()
			if len(b.rooms.by) != 0 {
				t.Errorf("left: %v", b.rooms.by)
			}
			if u, err := b.store.Unclaimed("c"); err == nil && u.Sandbox != "" {
				t.Errorf("record: %+v", u)
			}
		})
	}
}

// TestRoomEndsWithThePod: nobody has to wait for it, and nothing of it goes on.
func TestRoomEndsWithThePod(t *testing.T) {
	b := startBench(t, obeying(unix.SIGKILL), nil)
	exits := b.running()
	s := b.sandbox
	if err := s.claim(t.Context(), "d", "", "k"); err != nil {
		t.Fatal(err)
	}
	if err := s.makeRoom(t.Context(), s.machine, "d", size.Demand{Memory: 1 << 20})(); err != nil {
		t.Fatal(err)
	}
	s.callerGone("d")
	s.mu.Lock()
	r := s.rooms.by["d"]
	s.mu.Unlock()
	if r == nil {
		t.Fatal("no room is kept")
	}
	if err := b.call(monitor.Request{Op: monitor.OpStop, Signal: int(unix.SIGKILL)}); err != nil {
		t.Error(err)
	}
	exitOf(t, exits)
	within(t, b.ended, "the monitor's end")
	if !isClosed(r.over) || r.ctx.Err() == nil || len(s.rooms.by) != 0 {
		t.Error("room is kept in a machine that has ended")
	}
	if len(s.size.demands) != 0 {
		t.Errorf("demands: %v", s.size.demands)
	}
}
