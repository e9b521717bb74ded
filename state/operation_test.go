package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

func TestEvict(t *testing.T) {
	s := openStore(t)
	if u, err := s.Evict("c1"); err != nil || u != (UnderWay{}) {
		t.Errorf("nothing is under way: %v, %v", u, err)
	}
	o, err := s.Begin(context.Background(), "c1", lifecycle.OpCreate)
	if err != nil {
		t.Fatal(err)
	}
	if other, err := s.TryBegin("c1", lifecycle.OpDelete); other != nil || err != nil {
		t.Errorf("another one is under way: %v, %v", other, err)
	}
	ctx, stop, err := o.Watch(context.Background())
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
	want := UnderWay{lifecycle.OpCreate, self}
	if u, err := s.Evict("c1"); err != nil || u != want {
		t.Errorf("%v, %v, expected %v", u, err, want)
	}
	<-ctx.Done()
	if !errors.Is(context.Cause(ctx), ErrEvicted) {
		t.Errorf("the cause is %v", context.Cause(ctx))
	}
	// One that comes later sees it too.
	again, stopAgain, err := o.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	<-again.Done()
	stopAgain()
	if err := o.End(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, s.path(operationsDir))
}

// TestEvictedBefore has an operation that was evicted, and killed before it could
// remove the file: that does not concern the next one.
func TestEvictedBefore(t *testing.T) {
	s := openStore(t)
	if err := os.MkdirAll(s.path(operationsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path(operationsDir, "c1"), []byte("create 1 1\n"+strings.Repeat(evictLine, 20)), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := s.TryBegin("c1", lifecycle.OpDelete)
	if err != nil || o == nil {
		t.Fatal(o, err)
	}
	defer o.End()
	ctx, stop, err := o.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	stop()
	if errors.Is(context.Cause(ctx), ErrEvicted) {
		t.Error("evicted, as the one before")
	}
}

// TestUnderWay has two stores, and an operation in another process: who waits for
// it in vain says which one it was, if that could be written down.
func TestUnderWay(t *testing.T) {
	s := openStore(t)
	if u := s.UnderWay("c1"); u != (UnderWay{}) {
		t.Errorf("nothing is under way: %v", u)
	}
	c := startChild(t, nil, "operation-holder", s.Root(), "c1")
	if got := c.line(t); got != "ready" {
		t.Fatal(got)
	}
	wait := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := s.Begin(ctx, "c1", lifecycle.OpStart)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, expected the deadline", err)
		}
		return err
	}
	want := fmt.Sprintf("container c1: its create (pid %d) is still under way: context deadline exceeded", c.Process.Pid)
	if err := wait(); err == nil || err.Error() != want {
		t.Errorf("%v, expected %s", err, want)
	}
	if u := s.UnderWay("c1"); u.Op != lifecycle.OpCreate || u.Process.Pid != c.Process.Pid {
		t.Errorf("%v is under way", u)
	}
	// As on a full disk.
	if err := os.Truncate(s.path(operationsDir, "c1"), 0); err != nil {
		t.Fatal(err)
	}
	if err := wait(); err == nil || !strings.Contains(err.Error(), "container c1: an operation is still under way") {
		t.Error(err)
	}
	if u, err := s.Evict("c1"); err != nil || u != (UnderWay{}) {
		t.Errorf("%v, %v", u, err)
	}
	c.Process.Kill()
	o, err := s.Begin(soon(t), "c1", lifecycle.OpDelete)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.End(); err != nil {
		t.Error(err)
	}
}

// TestLeftovers: the file of an operation that was killed is nothing that is under
// way, and is found and removed, as is that of a lock and of a version before; that
// of one that goes on is not.
func TestLeftovers(t *testing.T) {
	s := openStore(t)
	c := startChild(t, nil, "operation-holder", s.Root(), "c1")
	if got := c.line(t); got != "ready" {
		t.Fatal(got)
	}
	if left, err := s.Leftovers(); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
	c.Process.Kill()
	c.Wait()
	if u := s.UnderWay("c1"); u != (UnderWay{}) {
		t.Errorf("%v is under way", u)
	}
	left, err := s.Leftovers()
	if err != nil || len(left) != 1 || left[0].ID != "c1" || !left[0].Operation {
		t.Fatalf("%v, %v", left, err)
	}
	if err := left[0].Remove(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, s.path(operationsDir))

	for dir, operation := range map[string]bool{sandboxLocksDir: false, formerDir: true} {
		if err := os.MkdirAll(s.path(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.path(dir, "c2"), []byte("create 1 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		left, err := s.Leftovers()
		if err != nil || len(left) != 1 || left[0].ID != "c2" || left[0].Operation != operation {
			t.Fatalf("%s: %v, %v", dir, left, err)
		}
		if err := left[0].Remove(); err != nil {
			t.Error(err)
		}
		wantEmpty(t, s.path(dir))
	}
}

// TestRemoveFormer has what a version before has left: it goes, but for what that
// version has under way still.
func TestRemoveFormer(t *testing.T) {
	s := openStore(t)
	dir := s.path(formerDir)
	if err := s.RemoveFormer(); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"c1", "c2", spare} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("holder 1 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held, err := os.Open(filepath.Join(dir, "c2"))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveFormer(); err != nil {
		t.Error(err)
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 1 || names[0] != held.Name() {
		t.Errorf("%v, %v", names, err)
	}
	held.Close()
	if err := s.RemoveFormer(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder: %v", err)
	}
}
