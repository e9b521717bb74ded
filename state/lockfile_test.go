package state

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

func openStore(t *testing.T) *Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "root"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// enter checks that nobody else is in the section that the lock guards: the
// counter in the file loses no increment, and the mark is nobody else's.
func enter(root, who string) error {
	mark := filepath.Join(root, "mark")
	f, err := os.OpenFile(mark, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("%s is not alone: %w", who, err)
	}
	f.Close()
	count := filepath.Join(root, "count")
	b, err := os.ReadFile(count)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	n, _ := strconv.Atoi(string(b))
	if err := os.WriteFile(count, []byte(strconv.Itoa(n+1)), 0o600); err != nil {
		return err
	}
	return os.Remove(mark)
}

func operations(root, who string, rounds int) error {
	s, err := Open(root)
	if err != nil {
		return err
	}
	for range rounds {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		l, err := s.Begin(ctx, "c1", lifecycle.OpStart)
		cancel()
		if err != nil {
			return err
		}
		err = enter(root, who)
		if err := errors.Join(err, l.End()); err != nil {
			return err
		}
	}
	return nil
}

// playOperations: args are the root and the number of rounds.
func playOperations(args []string) int {
	rounds, err := strconv.Atoi(args[1])
	if err == nil {
		err = operations(args[0], "process "+strconv.Itoa(os.Getpid()), rounds)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("done")
	return 0
}

func playOperation(args []string) int {
	s, err := Open(args[0])
	if err != nil {
		return 1
	}
	l, err := s.Begin(context.Background(), args[1], lifecycle.OpCreate)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer l.End()
	return untilEOF()
}

func TestOperationContention(t *testing.T) {
	const goroutines, rounds, processes, processRounds = 50, 8, 4, 100
	s := openStore(t)
	if err := os.Mkdir(s.Root(), 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range goroutines {
		wg.Go(func() {
			if err := operations(s.Root(), fmt.Sprint("goroutine ", i), rounds); err != nil {
				t.Error(err)
			}
		})
	}
	var children []*child
	for range processes {
		children = append(children, startChild(t, nil, "operation-loop", s.Root(), strconv.Itoa(processRounds)))
	}
	for _, c := range children {
		if got := c.line(t); got != "done" {
			t.Error(got)
		}
	}
	wg.Wait()
	b, err := os.ReadFile(filepath.Join(s.Root(), "count"))
	if err != nil {
		t.Fatal(err)
	}
	if want := strconv.Itoa(goroutines*rounds + processes*processRounds); string(b) != want {
		t.Errorf("%s turns were taken, want %s", b, want)
	}
	wantEmpty(t, s.path(operationsDir))
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == spare {
			continue
		}
		t.Errorf("left behind: %s/%s", dir, e.Name())
	}
}

func TestBeginEndsWithContext(t *testing.T) {
	s := openStore(t)
	held, err := s.Begin(soon(t), "c1", lifecycle.OpCreate)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Begin(ctx, "c1", lifecycle.OpStart); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "c1") {
		t.Fatalf("%v, want the deadline and the id", err)
	}
	if _, err := s.Begin(ctx, "c2", lifecycle.OpStart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a free lock after the deadline: %v", err)
	}
	other, err := s.Begin(soon(t), "c2", lifecycle.OpCreate) // another id's is free
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.End(), held.End(), held.End()); err != nil {
		t.Fatal(err)
	}
	// The waiter that was given up gives back what it may have got.
	again, err := s.Begin(soon(t), "c1", lifecycle.OpCreate)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.End(); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s.path(operationsDir))
}

// A holder that is killed frees the lock, also for one who waits already.
func TestOperationKilled(t *testing.T) {
	s := openStore(t)
	c := startChild(t, nil, "operation-holder", s.Root(), "c1")
	if got := c.line(t); got != "ready" {
		t.Fatal(got)
	}
	type result struct {
		l   *Operation
		err error
	}
	got := make(chan result, 1)
	go func() {
		l, err := s.Begin(soon(t), "c1", lifecycle.OpCreate)
		got <- result{l, err}
	}()
	select {
	case r := <-got:
		t.Fatalf("got the lock that another process holds: %v", r.err)
	case <-time.After(50 * time.Millisecond):
	}
	c.Process.Kill()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	if err := r.l.End(); err != nil {
		t.Fatal(err)
	}
	wantEmpty(t, s.path(operationsDir))
}

func TestBeginRefuses(t *testing.T) {
	s := openStore(t)
	if _, err := s.Begin(soon(t), "../c1", lifecycle.OpCreate); !errors.Is(err, ErrInvalidID) {
		t.Errorf("%v, want ErrInvalidID", err)
	}
	if err := os.MkdirAll(s.path(operationsDir), 0o700); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "target")
	if err := os.Symlink(target, s.path(operationsDir, "c1")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Begin(soon(t), "c1", lifecycle.OpCreate); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a symlink: %v, want ELOOP", err)
	}
	if _, err := os.Lstat(target); !os.IsNotExist(err) {
		t.Errorf("made the symlink's target: %v", err)
	}
}

// TestLockSandbox has locks of a sandbox and of the container after which it
// is named: who holds the one may take the other.
func TestLockSandbox(t *testing.T) {
	s := openStore(t)
	c, err := s.Begin(t.Context(), "p1", lifecycle.OpCreate)
	if err != nil {
		t.Fatal(err)
	}
	sb, err := s.LockSandbox(t.Context(), "p1")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.LockSandbox(ctx, "p1"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second lock: %v", err)
	}
	if err := errors.Join(sb.Release(), c.End()); err != nil {
		t.Error(err)
	}
	wantEmpty(t, s.path(sandboxLocksDir))
}
