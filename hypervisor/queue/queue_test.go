package queue

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// long is for what comes at once where nothing is wrong.
const long = time.Minute

// childVar makes this program one that enters the queue in the folder it names,
// says so, and stays until its stdin ends.
const childVar = "VC_QUEUE_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childVar); dir != "" {
		q, err := Open(dir, 1, time.Hour)
		if err == nil {
			_, err = q.Enter(context.Background())
		}
		fmt.Println("entered", err)
		bufio.NewReader(os.Stdin).ReadString('\n')
		return
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string, places int, patience time.Duration) *Queue {
	t.Helper()
	q, err := Open(dir, places, patience)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// entering is one who waits.
type entering struct {
	n    int
	got  chan *Place
	errs chan error
}

// enter has one more wait, and returns when it has its ticket, or its place.
func enter(t *testing.T, ctx context.Context, q *Queue, n int) *entering {
	t.Helper()
	return enterBy(t, ctx, q, n, q.Enter)
}

func enterBy(t *testing.T, ctx context.Context, q *Queue, n int, by func(context.Context) (*Place, error)) *entering {
	t.Helper()
	e := &entering{n, make(chan *Place, 1), make(chan error, 1)}
	seen := make(map[string]bool)
	for _, path := range tickets(t, q) {
		seen[path] = true
	}
	go func() {
		p, err := by(ctx)
		if err != nil {
			e.errs <- err
			return
		}
		e.got <- p
	}()
	fresh := func(path string) bool { return !seen[path] }
	for end := time.Now().Add(long); len(e.got) == 0 && !slices.ContainsFunc(tickets(t, q), fresh); {
		if time.Now().After(end) {
			t.Fatalf("%d does not get in line", n)
		}
		time.Sleep(time.Millisecond)
	}
	return e
}

func tickets(t *testing.T, q *Queue) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(q.dir, ticketPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (e *entering) place(t *testing.T) *Place {
	t.Helper()
	select {
	case p := <-e.got:
		return p
	case err := <-e.errs:
		t.Fatalf("%d: %v", e.n, err)
	case <-time.After(long):
		t.Fatalf("%d gets no place", e.n)
	}
	return nil
}

func (e *entering) waits(t *testing.T) {
	t.Helper()
	select {
	case <-e.got:
		t.Fatalf("%d has a place, out of turn", e.n)
	case err := <-e.errs:
		t.Fatalf("%d: %v", e.n, err)
	default:
	}
}

func TestOrder(t *testing.T) {
	q := open(t, t.TempDir(), 2, time.Hour)
	var line []*entering
	for n := range 8 {
		line = append(line, enter(t, t.Context(), q, n))
	}
	places := []*Place{line[0].place(t), line[1].place(t)}
	for n := 2; n < len(line); n++ {
		for _, e := range line[n:] {
			e.waits(t)
		}
		places[n%2].Close()
		places[n%2] = line[n].place(t)
		if !places[n%2].Taken() {
			t.Errorf("%d went past the others", n)
		}
	}
	for _, p := range places {
		p.Close()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	if left := tickets(t, q); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLast has who can do without wait for all others, those who come later
// too, and leave them a place where there are two.
func TestLast(t *testing.T) {
	q := open(t, t.TempDir(), 2, time.Hour)
	held := []*Place{enter(t, t.Context(), q, 0).place(t), enter(t, t.Context(), q, 1).place(t)}
	last := enterBy(t, t.Context(), q, 10, q.EnterLast)
	later := []*entering{enter(t, t.Context(), q, 2), enter(t, t.Context(), q, 3)}
	for i, e := range later {
		held[i].Close()
		held[i] = e.place(t)
		last.waits(t)
	}
	for _, p := range held {
		p.Close()
	}
	first := last.place(t)
	another := enterBy(t, t.Context(), q, 11, q.EnterLast)
	enter(t, t.Context(), q, 4).place(t).Close()
	another.waits(t)
	first.Close()
	another.place(t).Close()
	if left := tickets(t, q); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLastGivesUp has nothing move: who can do without does.
func TestLastGivesUp(t *testing.T) {
	q := open(t, t.TempDir(), 1, 50*time.Millisecond)
	holder := enter(t, t.Context(), q, 0).place(t)
	if p, err := q.EnterLast(t.Context()); !errors.Is(err, ErrStill) {
		t.Errorf("%+v, %v: expected %v", p, err, ErrStill)
	}
	waiting := open(t, q.dir, 1, time.Hour)
	waiter := enter(t, t.Context(), waiting, 1)
	if p, err := q.EnterLast(t.Context()); !errors.Is(err, ErrStill) {
		t.Errorf("%+v, %v: expected %v", p, err, ErrStill)
	}
	holder.Close()
	waiter.place(t).Close()
}

func TestGivenUp(t *testing.T) {
	q := open(t, t.TempDir(), 1, time.Hour)
	first := enter(t, t.Context(), q, 0).place(t)
	why := errors.New("deleted")
	ctx, cancel := context.WithCancelCause(t.Context())
	second, third := enter(t, ctx, q, 1), enter(t, t.Context(), q, 2)
	cancel(why)
	if err := <-second.errs; !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	third.waits(t)
	first.Close()
	third.place(t).Close()
}

// child is another process, which has entered, or waits.
func child(t *testing.T, dir string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), childVar+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

func TestKilled(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, 1, time.Hour)
	holder, out := child(t, dir)
	if line, err := out.ReadString('\n'); err != nil || !strings.Contains(line, "<nil>") {
		t.Fatalf("%q, %v", line, err)
	}
	waiter, _ := child(t, dir)
	for len(tickets(t, q)) == 0 {
		time.Sleep(time.Millisecond)
	}
	last := enter(t, t.Context(), q, 2)
	waiter.Process.Kill()
	last.waits(t)
	holder.Process.Kill()
	last.place(t).Close()
	enter(t, t.Context(), q, 3).place(t).Close() // clears up behind it, too
	if left := tickets(t, q); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestNewcomer has a place free while the first of those who wait is stopped for
// a moment: who comes later does not take it.
func TestNewcomer(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, 1, time.Hour)
	first := enter(t, t.Context(), q, 0).place(t)
	waiter, out := child(t, dir)
	for len(tickets(t, q)) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := waiter.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	first.Close()
	newcomer := enter(t, t.Context(), q, 1)
	time.Sleep(100 * time.Millisecond) // for who does not wait its turn
	if err := waiter.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	entered := make(chan string, 1)
	go func() {
		line, _ := out.ReadString('\n') // ends with the child
		entered <- line
	}()
	select {
	case line := <-entered:
		if !strings.Contains(line, "<nil>") {
			t.Fatalf("the first in line: %q", line)
		}
	case <-newcomer.got:
		t.Fatal("who came last has the place")
	case <-time.After(long):
		t.Fatal("nobody gets the place")
	}
	newcomer.waits(t)
	waiter.Process.Kill()
	newcomer.place(t).Close()
}

// TestFrozen has who waits, and then who has the place, stopped.
func TestFrozen(t *testing.T) {
	dir := t.TempDir()
	q := open(t, dir, 1, 50*time.Millisecond)
	holder, out := child(t, dir)
	if _, err := out.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	waiter, _ := child(t, dir)
	for len(tickets(t, q)) == 0 {
		time.Sleep(time.Millisecond)
	}
	for _, cmd := range []*exec.Cmd{holder, waiter} {
		if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	p, err := q.Enter(t.Context())
	if err != nil || p.Taken() {
		t.Fatalf("%+v, %v: expected to go past who does not move", p, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open(t.TempDir(), 0, time.Hour); err == nil || !strings.Contains(err.Error(), "0 places") {
		t.Errorf("got %v", err)
	}
	if err := (*Place)(nil).Close(); err != nil {
		t.Error(err)
	}
}
