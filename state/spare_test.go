package state

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

func newSpare(t *testing.T, s *Store, id string) {
	t.Helper()
	if _, err := s.MakeSpareDir(id); err != nil {
		t.Fatal(err)
	}
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SaveSpare(id, &Spare{Machine: "m", Monitor: self, BootID: boot, Ready: true}); err != nil {
		t.Fatal(err)
	}
}

// Of all who claim a spare one gets it, and it never comes back.
func TestClaimSpare(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	newSpare(t, s, "one")
	held, err := s.HoldSpare("one")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	var winner atomic.Pointer[string]
	var wins atomic.Int32
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			id := "c" + strconv.Itoa(i)
			switch err := s.ClaimSpare("one", id); {
			case err == nil:
				wins.Add(1)
				winner.Store(&id)
			case !errors.Is(err, ErrNotExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if wins.Load() != 1 {
		t.Fatalf("%d have claimed the spare", wins.Load())
	}
	id := *winner.Load()
	if ids, _, err := s.Spares(); err != nil || len(ids) != 0 {
		t.Errorf("spares: %v %v", ids, err)
	}
	// Its record stands for the sandbox's until there is one.
	sb, err := s.Sandbox(id)
	if self, _ := Self(); err != nil || sb.ID != id || sb.Monitor != self {
		t.Errorf("sandbox: %+v %v", sb, err)
	}
	if held, err := s.SandboxHeld(id); err != nil || !held {
		t.Errorf("the lock did not come along: %v %v", held, err)
	}
	if err := s.RemoveSandbox(id); !errors.Is(err, ErrHeld) {
		t.Errorf("removed with a living monitor: %v", err)
	}
	held.Close()
	if err := s.RemoveSandbox(id); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.SandboxDir(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("still there: %v", err)
	}
}

// What is on its way out cannot be claimed, and no claim replaces a sandbox.
func TestWithdrawSpare(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	newSpare(t, s, "one")
	if _, err := s.MakeSandboxDir("taken"); err != nil {
		t.Fatal(err)
	}
	if err := s.ClaimSpare("one", "taken"); !errors.Is(err, ErrExist) {
		t.Errorf("claim for a sandbox that exists: %v", err)
	}
	ended, err := s.WithdrawSpare("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.ClaimSpare("one", "c"); !errors.Is(err, ErrNotExist) {
		t.Errorf("claim after withdrawal: %v", err)
	}
	if _, err := s.WithdrawSpare("one"); !errors.Is(err, ErrNotExist) {
		t.Errorf("withdrawn twice: %v", err)
	}
	if _, gone, err := s.Spares(); err != nil || len(gone) != 1 || gone[0] != ended {
		t.Errorf("ended spares: %v %v", gone, err)
	}
	if err := s.RemoveSpare(ended); err != nil {
		t.Error(err)
	}
}

// One makes spares at a time, and nobody who began before all were ended.
func TestLockSpares(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.TryLockSpares()
	if first == nil || err != nil {
		t.Fatal(first, err)
	}
	if second, err := s.TryLockSpares(); second != nil || err != nil {
		t.Errorf("locked twice: %v %v", second, err)
	}
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := s.LockSpares(ctx); !errors.Is(err, enough) {
		t.Errorf("got %v, expected %v", err, enough)
	}
	early, err := s.OpenSpares()
	if err != nil {
		t.Fatal(err)
	}
	waiting, refused := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s.LockOpenSpares(t.Context(), early)
		refused <- err
	}()
	go func() {
		lock, err := s.LockSpares(t.Context())
		if err == nil {
			err = lock.Close()
		}
		waiting <- err
	}()
	if err := errors.Join(first.Remove(), first.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; err != nil {
		t.Error(err)
	}
	if err := <-refused; !errors.Is(err, ErrNotExist) {
		t.Errorf("got %v, expected %v", err, ErrNotExist)
	}
}

// What was withdrawn does not come back by a record.
func TestSaveWithdrawnSpare(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	newSpare(t, s, "one")
	sp, err := s.Spare("one")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.WithdrawSpare("one"); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveSpare("one", sp); !errors.Is(err, ErrNotExist) {
		t.Errorf("got %v, expected %v", err, ErrNotExist)
	}
	if ids, _, err := s.Spares(); err != nil || len(ids) != 0 {
		t.Errorf("spares: %v %v", ids, err)
	}
}
