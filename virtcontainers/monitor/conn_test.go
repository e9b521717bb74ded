package monitor

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair gives both ends of a connection, closed at the test's end.
func pair(t *testing.T) (*Conn, *Conn) {
	t.Helper()
	a, f, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err := FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestMessageCarriesFile(t *testing.T) {
	a, b := pair(t)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	big := make([]byte, 1<<20) // more than a socket buffer holds
	go a.Send(&Request{Op: OpCreate, Container: "c", Spec: big}, file)
	var req Request
	got, err := b.Receive(&req)
	if err != nil {
		t.Fatal(err)
	}
	if req.Op != OpCreate || req.Container != "c" || len(req.Spec) != len(big) {
		t.Fatalf("got %s %s with %d bytes", req.Op, req.Container, len(req.Spec))
	}
	if got == nil {
		t.Fatal("the file did not come along")
	}
	defer got.Close()
	body := make([]byte, 5)
	if _, err := got.ReadAt(body, 0); err != nil || string(body) != "hello" {
		t.Fatalf("passed file has %q, %v", body, err)
	}
}

func TestCallFailures(t *testing.T) {
	for _, tc := range []struct {
		name  string
		serve func(c *Conn)
		want  error
	}{
		{"failure keeps its errno", func(c *Conn) {
			c.Send(&Reply{Failure: FailureOf(os.NewSyscallError("exec", syscall.ENOENT))}, nil)
		}, syscall.ENOENT},
		{"end of the connection is ErrGone", func(c *Conn) { c.Close() }, ErrGone},
		{"silence ends with the context", func(*Conn) {}, context.DeadlineExceeded},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, b := pair(t)
			go func() {
				var req Request
				b.Receive(&req)
				tc.serve(b)
			}()
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			if _, err := a.Call(ctx, &Request{Op: OpStart}, nil); !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestReceiveRefuses(t *testing.T) {
	for name, bytes := range map[string]string{
		"a length over the limit": "\xff\xff\xff\xff",
		"a body that is cut off":  "\x00\x00\x00\x09{}",
		"a body that is no JSON":  "\x00\x00\x00\x02{{",
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			a.Write([]byte(bytes))
			a.Close()
			if _, err := b.Receive(&Request{}); err == nil || errors.Is(err, io.EOF) && name != "a body that is cut off" {
				t.Fatalf("got %v", err)
			}
		})
	}
	a, b := pair(t)
	a.Close()
	if _, err := b.Receive(&Request{}); err != io.EOF {
		t.Fatalf("a clean end gives %v, want io.EOF", err)
	}
}

func TestSocketInLongPath(t *testing.T) {
	dir := t.TempDir() + "/" + strings.Repeat("long/", 40)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir, SocketName)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := Dial(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	pid, err := PeerPid(c.UnixConn)
	if err != nil || pid != os.Getpid() {
		t.Fatalf("peer is %d, %v; want %d", pid, err, os.Getpid())
	}
	l.Close()
	if _, err := Dial(dir); !errors.Is(err, ErrGone) {
		t.Fatalf("a socket that nobody serves gives %v, want ErrGone", err)
	}
	if _, err := Dial(t.TempDir()); !errors.Is(err, ErrGone) {
		t.Fatalf("no socket gives %v, want ErrGone", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0d{\"op\":\"stop\"}"))
	f.Add([]byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, b := pair(t)
		go func() { a.Write(data); a.Close() }()
		b.SetReadDeadline(time.Now().Add(5 * time.Second))
		for {
			if _, err := b.Receive(&Request{}); err != nil {
				return
			}
		}
	})
}
