package state

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
)

func TestEvict(t *testing.T) {
	s := openStore(t)
	if p, err := s.Evict("c1"); err != nil || p.Pid != 0 {
		t.Errorf("nobody holds it: %v, %v", p, err)
	}
	l, err := s.Lock(context.Background(), "c1")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := s.TryLock("c1"); other != nil || err != nil {
		t.Errorf("a lock that is held: %v, %v", other, err)
	}
	ctx, stop, err := l.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	if ctx.Err() != nil {
		t.Error("evicted by nobody")
	}
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	if p, err := s.Evict("c1"); err != nil || p != self {
		t.Errorf("held by %v, %v, expected %v", p, err, self)
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), ErrEvicted) {
		t.Errorf("the cause is %v", context.Cause(ctx))
	}
	// One that comes later sees it too.
	again, stopAgain, err := l.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	<-again.Done()
	stopAgain()
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, s.path(locksDir))
}

// TestEvictedBefore has a lock whose last holder was evicted, and killed before
// it could remove the file: that does not concern the next one.
func TestEvictedBefore(t *testing.T) {
	s := openStore(t)
	if err := os.MkdirAll(s.path(locksDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(locksDir, "c1"), []byte("holder 1 1\n"+strings.Repeat(evictLine, 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := s.TryLock("c1")
	if err != nil || l == nil {
		t.Fatal(l, err)
	}
	defer l.Release()
	ctx, stop, err := l.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if errors.Is(context.Cause(ctx), ErrEvicted) {
		t.Error("evicted, as the one before")
	}
}
