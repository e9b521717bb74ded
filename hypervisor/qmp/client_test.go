package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const greeting = `{"QMP":{"version":{"qemu":{"micro":0,"minor":2,"major":7}},"capabilities":["oob"]}}`

// command is what the fake QEMU receives.
type command struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        uint64          `json:"id"`
}

// fakeQEMU is the other end of a Client's connection.
type fakeQEMU struct {
	t    *testing.T
	conn *net.UnixConn
	in   *bufio.Reader
}

func (q *fakeQEMU) say(format string, args ...any) {
	if _, err := fmt.Fprintf(q.conn, format+"\r\n", args...); err != nil {
		q.t.Logf("fake QEMU: %v", err)
	}
}

func (q *fakeQEMU) hear() (command, bool) {
	line, err := q.in.ReadBytes('\n')
	if err != nil {
		return command{}, false
	}
	var c command
	if err := json.Unmarshal(line, &c); err != nil {
		q.t.Errorf("fake QEMU got %q: %v", line, err)
	}
	return c, true
}

func socketpair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	return conns[0], conns[1]
}

// connect gives a Client and the fake QEMU that has shaken hands with it.
func connect(t *testing.T) (*Client, *fakeQEMU) {
	t.Helper()
	a, b := socketpair(t)
	q := &fakeQEMU{t: t, conn: b, in: bufio.NewReader(b)}
	var wg sync.WaitGroup
	wg.Go(func() {
		q.say(greeting)
		if c, ok := q.hear(); !ok || c.Execute != "qmp_capabilities" {
			t.Errorf("first command %+v", c)
		} else {
			q.say(`{"return":{},"id":%d}`, c.ID)
		}
	})
	c, err := New(testContext(t), a)
	wg.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, q
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestExecuteMatchesAnswersByID(t *testing.T) {
	c, q := connect(t)
	var wg sync.WaitGroup
	wg.Go(func() { // answers in the wrong order, with an event between them
		first, _ := q.hear()
		second, _ := q.hear()
		for _, cmd := range []command{second, first} {
			q.say(`{"event":"RESUME","timestamp":{"seconds":1,"microseconds":2}}`)
			q.say(`{"return":{"echo":%s},"id":%d}`, cmd.Arguments, cmd.ID)
		}
	})
	type payload struct {
		N int `json:"n"`
	}
	for n := range 2 {
		wg.Go(func() {
			var reply struct{ Echo payload }
			if err := c.Execute(testContext(t), "echo", payload{n}, &reply); err != nil || reply.Echo.N != n {
				t.Errorf("call %d: got %+v, %v", n, reply, err)
			}
		})
	}
	wg.Wait()
}

func TestExecuteRefused(t *testing.T) {
	c, q := connect(t)
	go func() {
		cmd, _ := q.hear()
		q.say(`{"error":{"class":"DeviceNotFound","desc":"Device 'x' not found"},"id":%d}`, cmd.ID)
	}()
	err := c.Execute(testContext(t), "device_del", map[string]string{"id": "x"}, nil)
	var refused *Error
	if !errors.As(err, &refused) || refused.Class != "DeviceNotFound" {
		t.Fatalf("got %v", err)
	}
	if got, want := err.Error(), "device_del: Device 'x' not found"; got != want {
		t.Errorf("message %q, want %q", got, want)
	}
}

func TestExecuteGivesUpWithContext(t *testing.T) {
	c, q := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Execute(ctx, "query-status", nil, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	// The answer that comes too late harms nobody.
	go func() {
		late, _ := q.hear()
		q.say(`{"return":{},"id":%d}`, late.ID)
		next, _ := q.hear()
		q.say(`{"return":{},"id":%d}`, next.ID)
	}()
	if err := c.Execute(testContext(t), "query-status", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// A QEMU that has been stopped reads nothing: in the end the socket is full.
func TestExecuteGivesUpWhenSocketIsFull(t *testing.T) {
	c, _ := connect(t)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	args := map[string]string{"pad": strings.Repeat("x", 100<<10)}
	for range 20 {
		wg.Go(func() {
			if err := c.Execute(ctx, "fill", args, nil); err == nil {
				t.Error("no error")
			}
		})
	}
	wg.Wait()
}

func TestDeathFailsAllCalls(t *testing.T) {
	tests := map[string]struct {
		say  func(*fakeQEMU)
		want string
	}{
		"end of file":       {func(q *fakeQEMU) {}, "EOF"},
		"garbage":           {func(q *fakeQEMU) { q.say("hello?") }, "decode QMP message"},
		"no known form":     {func(q *fakeQEMU) { q.say(`{"a":1}`) }, "not one of"},
		"unmatched error":   {func(q *fakeQEMU) { q.say(`{"error":{"class":"GenericError","desc":"bad JSON"}}`) }, "bad JSON"},
		"second greeting":   {func(q *fakeQEMU) { q.say(greeting) }, "second QMP greeting"},
		"line without end":  {func(q *fakeQEMU) { q.say("%s", strings.Repeat("x", maxLine+1)) }, ErrLineTooLong.Error()},
		"answer without id": {func(q *fakeQEMU) { q.say(`{"return":{}}`) }, "answer to no command"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, q := connect(t)
			errs := make(chan error, 3)
			for range 3 {
				go func() { errs <- c.Execute(testContext(t), "query-status", nil, nil) }()
			}
			for range 3 {
				q.hear()
			}
			tt.say(q)
			q.conn.Close()
			for range 3 {
				if err := <-errs; err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			}
			<-c.Done()
			if err := c.Execute(testContext(t), "query-status", nil, nil); err == nil {
				t.Error("a call after the end succeeded")
			}
		})
	}
}

func TestNewGivesUpOnSilence(t *testing.T) {
	a, _ := socketpair(t)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if _, err := New(ctx, a); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestNewRejectsStranger(t *testing.T) {
	a, b := socketpair(t)
	fmt.Fprintln(b, `{"return":{},"id":1}`)
	if _, err := New(testContext(t), a); err == nil || !strings.Contains(err.Error(), "greeting") {
		t.Fatalf("got %v", err)
	}
}

func TestSendFile(t *testing.T) {
	c, q := connect(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	got := make(chan *os.File, 1)
	go func() {
		line, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(4))
		n, oobn, _, _, err := q.conn.ReadMsgUnix(line, oob)
		if err != nil {
			t.Error(err)
		}
		var cmd command
		if err := json.Unmarshal(line[:n], &cmd); err != nil || string(cmd.Arguments) != `{"fdname":"sock"}` {
			t.Errorf("got %s: %v", line[:n], err)
		}
		msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
		if len(msgs) != 1 {
			t.Errorf("%d control messages", len(msgs))
			got <- nil
			return
		}
		fds, _ := unix.ParseUnixRights(&msgs[0])
		q.say(`{"return":{},"id":%d}`, cmd.ID)
		got <- os.NewFile(uintptr(fds[0]), "received")
	}()
	if err := c.SendFile(testContext(t), "sock", w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	copied := <-got
	fmt.Fprint(copied, "hi")
	copied.Close()
	b := make([]byte, 8)
	if n, err := r.Read(b); err != nil || string(b[:n]) != "hi" {
		t.Fatalf("read %q, %v", b[:n], err)
	}
}

func TestSubscribe(t *testing.T) {
	c, q := connect(t)
	all := c.Subscribe(2, func(Event) bool { return true })
	one := c.Subscribe(1, func(e Event) bool { return e.Name == "E9" })
	for i := range 10 {
		q.say(`{"event":"E%d","data":{"i":%d}}`, i, i)
	}
	select { // the full queue of all must not keep the reader from E9
	case e := <-one.C:
		if string(e.Data) != `{"i":9}` {
			t.Errorf("data %s", e.Data)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the reader is blocked")
	}
	if e := <-all.C; e.Name != "E0" {
		t.Errorf("first event %s", e.Name)
	}
	one.Close()
	all.Close()
	if len(c.subs) != 0 {
		t.Errorf("%d subscriptions left", len(c.subs))
	}
}

func TestCloseFailsCalls(t *testing.T) {
	c, q := connect(t)
	errs := make(chan error, 1)
	go func() { errs <- c.Execute(testContext(t), "query-status", nil, nil) }()
	q.hear()
	c.Close()
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Fatalf("got %v", err)
	}
	if err := c.Close(); err != nil { // safe twice
		t.Fatal(err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		greeting, `{"return":{},"id":1}`, `{"event":"STOP","timestamp":{}}`, `{"error":{"class":"a","desc":"b"},"id":2}`,
		`{"return":1,"error":{},"id":1}`, `{"id":"x","return":{}}`, `[]`, `null`, "", `{"return":null,"id":1}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := decode(line)
		if err != nil {
			return
		}
		// What dispatch relies on.
		if m.Greeting == nil && m.Event == "" && m.ID == nil {
			t.Errorf("an answer without id: %q", line)
		}
	})
}
