package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// The servers here are hostile; that the client works with a real one is
// tested in agent/server.

var goodHello = api.Hello{Protocol: api.ProtocolVersion, Version: "1", ImageID: "image"}

// dialGuest connects to a guest played by f.
func dialGuest(t *testing.T, ctx context.Context, opts Options, f func(net.Conn)) (*Client, error) {
	t.Helper()
	host, guest := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f(guest)
	}()
	c, err := Dial(ctx, host, opts)
	t.Cleanup(func() {
		if c != nil {
			c.Close()
		}
		guest.Close()
		<-ended
	})
	return c, err
}

func shortContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func TestDialRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		guest func(net.Conn)
		want  error
		text  []string
	}{
		"silent":       {func(net.Conn) {}, context.DeadlineExceeded, nil},
		"gone":         {func(c net.Conn) { c.Close() }, io.EOF, nil},
		"endless line": {func(c net.Conn) { c.Write(bytes.Repeat([]byte("x"), 1<<20)) }, api.ErrLineTooLong, nil},
		"protocol": {func(c net.Conn) { api.WriteLine(c, api.Hello{Protocol: 7, ImageID: "image"}) },
			ErrMismatch, []string{"protocol 7", "host 2"}},
		"image": {func(c net.Conn) { api.WriteLine(c, api.Hello{Protocol: api.ProtocolVersion, ImageID: "other"}) },
			ErrMismatch, []string{`"other"`, `"image"`}},
		"does not read": {func(c net.Conn) { api.WriteLine(c, goodHello) }, context.DeadlineExceeded, nil},
		"no session": {func(c net.Conn) {
			api.WriteLine(c, goodHello)
			api.ReadLine(c, &api.Welcome{})
		}, context.DeadlineExceeded, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := shortContext(t)
			if !errors.Is(test.want, context.DeadlineExceeded) {
				ctx = t.Context()
			}
			_, err := dialGuest(t, ctx, Options{ImageID: "image"}, test.guest)
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			for _, text := range test.text {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("got %v, want %q in it", err, text)
				}
			}
		})
	}
}

// welcome plays an honest greeting and takes whatever the host sends after.
func welcome(c net.Conn, then func()) {
	api.WriteLine(c, goodHello)
	api.ReadLine(c, &api.Welcome{})
	go then()
	io.Copy(io.Discard, c)
}

func TestCallsEndWithTheirContext(t *testing.T) {
	c, err := dialGuest(t, t.Context(), Options{ImageID: "image"}, func(conn net.Conn) { welcome(conn, func() {}) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartContainer(shortContext(t), &api.ContainerRequest{Container: "c"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("call: %v", err)
	}
	// More than the window of the stream: the sending itself waits.
	big := &api.CreateContainerRequest{Spec: make([]byte, 1<<20)}
	for range 3 {
		if _, err := c.CreateContainer(shortContext(t), big); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("large call: %v", err)
		}
	}
	for i := 0; ; i++ { // the backlog of unanswered streams fills
		_, err := c.OpenStream(shortContext(t), api.KindStdout, "c", "")
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil || i > 1000 {
			t.Fatalf("stream %d: %v", i, err)
		}
	}
	if _, err := c.OpenStream(t.Context(), api.KindRPC, "c", ""); err == nil {
		t.Error("a stream of RPC was opened")
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	<-c.Done()
}

// TestGuestIsCutOff: a guest that makes yamux work for nothing loses its
// session.
func TestGuestIsCutOff(t *testing.T) {
	for name, frame := range map[string][]byte{
		"ping":       header(framePing, flagSYN, 0, 1),
		"stream":     header(frameWindowUpdate, flagSYN, 2, 0),
		"data":       header(frameData, flagSYN, 2, 0),
		"no frame":   []byte("GET / HTTP/1.1\r\n\r\n"),
		"wrong type": header(4, 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := dialGuest(t, t.Context(), Options{ImageID: "image"}, func(conn net.Conn) {
				welcome(conn, func() { conn.Write(frame) })
			})
			if errors.Is(err, ErrProtocol) { // cut off while it was dialled
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-c.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("the session goes on")
			}
			if err := c.Err(); !errors.Is(err, ErrProtocol) {
				t.Errorf("reason %v", err)
			}
			if _, err := c.StartContainer(t.Context(), &api.ContainerRequest{}); err == nil {
				t.Error("call in a session that has ended")
			}
		})
	}
}

func header(kind byte, flags uint16, id, length uint32) []byte {
	h := make([]byte, frameHeader)
	h[1] = kind
	binary.BigEndian.PutUint16(h[2:], flags)
	binary.BigEndian.PutUint32(h[4:], id)
	binary.BigEndian.PutUint32(h[8:], length)
	return h
}

func TestKnownHello(t *testing.T) {
	greeted := make(chan api.Welcome, 1)
	_, err := dialGuest(t, t.Context(), Options{ImageID: "image", Hello: &goodHello}, func(conn net.Conn) {
		var w api.Welcome
		api.ReadLine(conn, &w)
		greeted <- w
		io.Copy(io.Discard, conn)
	})
	if err != nil {
		t.Fatal(err)
	}
	if w := <-greeted; len(w.Entropy) != 64 || time.Since(time.Unix(0, w.TimeNs)) > time.Minute {
		t.Errorf("welcome %+v", w)
	}
}

func TestFrameCheck(t *testing.T) {
	stream := bytes.Join([][]byte{
		header(frameData, 0, 1, 5), []byte("hello"),
		header(frameWindowUpdate, 2, 1, 1<<20), // an ack; its length is no body
		header(frameData, 4, 1, 0),
		header(frameGoAway, 0, 0, 0),
	}, nil)
	for size := 1; size <= len(stream); size++ {
		var c frameCheck
		for rest := stream; len(rest) > 0; {
			n := min(size, len(rest))
			if err := c.feed(rest[:n]); err != nil {
				t.Fatalf("in pieces of %d: %v", size, err)
			}
			rest = rest[n:]
		}
		if c.have != 0 || c.body != 0 {
			t.Fatalf("in pieces of %d: state %+v", size, c)
		}
	}
}

// FuzzSession: whatever the guest says after the greeting, the client ends and
// does not panic.
func FuzzSession(f *testing.F) {
	f.Add(header(frameWindowUpdate, 2, 1, 0))
	f.Add(append(header(frameData, 0, 1, 4), "abcd"...))
	f.Add(header(frameData, 8, 1, 1<<31))
	f.Fuzz(func(t *testing.T, data []byte) {
		host, guest := net.Pipe()
		go func() {
			go io.Copy(io.Discard, guest)
			guest.Write(data)
			guest.Close()
		}()
		c, err := Dial(t.Context(), host, Options{ImageID: "image", Hello: &goodHello})
		if err != nil {
			return
		}
		<-c.Done()
		c.Close()
	})
}

// TestGuestTime: a call's deadline is the host's, which a guest's clock that
// leaps must not bring forward.
func TestGuestTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	want, _ := ctx.Deadline()
	_, err := call(ctx, &api.Empty{}, func(aside context.Context, _ *api.Empty) (*api.Empty, error) {
		if got, ok := aside.Deadline(); !ok || time.Until(got) < 9*time.Until(want) {
			t.Errorf("the guest is told of %s, the host's deadline is in %s", time.Until(got), time.Until(want))
		}
		return nil, nil
	})
	if err != nil {
		t.Error(err)
	}
}
