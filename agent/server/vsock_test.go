package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
)

// vsockPort is where the guest of these tests listens.
const vsockPort = 4711

// fakeVsock is the vsock device of a machine: ports of the guest that the host
// can connect to. It is a unix socket.
type fakeVsock struct{ path string }

func newFakeVsock(t *testing.T) *fakeVsock { return &fakeVsock{filepath.Join(t.TempDir(), "vsock")} }

func (v *fakeVsock) dial(_ context.Context, port uint32) (net.Conn, error) {
	if port != vsockPort {
		return nil, syscall.ECONNRESET
	}
	return net.Dial("unix", v.path)
}

func (v *fakeVsock) listen() (Listener, error) {
	l, err := net.Listen("unix", v.path)
	return vsockListener{l}, err
}

type vsockListener struct{ net.Listener }

func (vsockListener) Port() uint32 { return vsockPort }

// works has the agent create and end a container.
func (r *rig) works(t *testing.T, c *client.Client) {
	t.Helper()
	with := *r
	with.Client = c
	with.create(t, "c", outputs, "echo through; exit 3")
	out := with.open(t, api.KindStdout, "c", "")
	with.start(t, "c")
	wantOutput(t, out, "through\n")
	with.wantExit(t, "c", "", 3)
	with.remove(t, "c")
}

func TestSessionOverVsock(t *testing.T) {
	r, v := newRig(t), newFakeVsock(t)
	c, served, err := r.dial(t, &client.Vsock{Dial: v.dial, Required: true}, v.listen)
	if err != nil {
		t.Fatal(err)
	}
	if c.Carrier() != api.CarrierVsock || c.NoVsock() != nil {
		t.Errorf("the session goes over %s: %v", c.Carrier(), c.NoVsock())
	}
	r.works(t, c)
	// Nobody can connect any more.
	if conn, err := v.dial(t.Context(), vsockPort); err == nil {
		conn.Close()
		t.Error("the agent still listens")
	}
	c.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// What goes wrong with vsock leaves a session over the port, and says why; it
// is an error where vsock is required.
func TestSessionWithoutVsock(t *testing.T) {
	refuse := func(context.Context, uint32) (net.Conn, error) { return nil, syscall.ECONNREFUSED }
	for name, test := range map[string]struct {
		dial   func(*fakeVsock) func(context.Context, uint32) (net.Conn, error)
		listen func(*fakeVsock) func() (Listener, error)
		want   string
	}{
		"no driver": {
			listen: func(*fakeVsock) func() (Listener, error) {
				return func() (Listener, error) { return nil, errors.New("load module vsock.ko: bad format") }
			},
			want: "bad format",
		},
		"refused": {
			dial: func(*fakeVsock) func(context.Context, uint32) (net.Conn, error) { return refuse },
			want: "refused",
		},
		"a stranger answers": {
			dial: func(*fakeVsock) func(context.Context, uint32) (net.Conn, error) {
				return func(context.Context, uint32) (net.Conn, error) { return answering(t, []byte("hello")), nil }
			},
			want: "not the agent",
		},
		"a silent stranger": {
			dial: func(*fakeVsock) func(context.Context, uint32) (net.Conn, error) {
				return func(ctx context.Context, _ uint32) (net.Conn, error) { return answering(t, nil), nil }
			},
			want: "EOF",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, v := newRig(t), newFakeVsock(t)
			dial, listen := v.dial, v.listen
			if test.dial != nil {
				dial = test.dial(v)
			}
			if test.listen != nil {
				listen = test.listen(v)
			}
			c, served, err := r.dial(t, &client.Vsock{Dial: dial}, listen)
			if err != nil {
				t.Fatal(err)
			}
			if c.Carrier() != api.CarrierSerial || c.NoVsock() == nil || !strings.Contains(c.NoVsock().Error(), test.want) {
				t.Errorf("the session goes over %s: %v", c.Carrier(), c.NoVsock())
			}
			r.works(t, c)
			c.Close()
			if err := <-served; err != nil {
				t.Error(err)
			}

			_, served, err = r.dial(t, &client.Vsock{Dial: dial, Required: true}, listen)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("required: %v", err)
			}
			if err := <-served; err == nil {
				t.Error("required: the agent has a session")
			}
		})
	}
}

// answering is a connection whose other end answers with a secret, or with
// nothing but its end.
func answering(t *testing.T, secret []byte) net.Conn {
	host, stranger := connPair(t)
	go func() {
		defer stranger.Close()
		api.ReadLine(stranger, &api.VsockSecret{})
		if secret != nil {
			api.WriteLine(stranger, api.VsockSecret{Secret: secret})
			io.Copy(io.Discard, stranger)
		}
	}()
	return host
}

// Callers that do not know the secret neither come in nor keep the host out.
func TestStrangersAtTheDoor(t *testing.T) {
	r, v := newRig(t), newFakeVsock(t)
	var strangers sync.WaitGroup
	call := func(text string) {
		conn, err := v.dial(t.Context(), vsockPort)
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(conn, text)
		strangers.Go(func() {
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(20 * time.Second))
			// A reset is as good as an end: they are not answered.
			if b, err := io.ReadAll(conn); len(b) != 0 || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("a stranger that said %.40q got %q, %v", text, b, err)
			}
		})
	}
	dial := func(ctx context.Context, port uint32) (net.Conn, error) {
		empty, _ := json.Marshal(api.VsockSecret{})
		wrong, _ := json.Marshal(api.VsockSecret{Secret: bytes.Repeat([]byte{7}, 32)})
		for _, text := range []string{"", "GET / HTTP/1.1\r\n\r\n", string(empty) + "\n", string(wrong) + "\n", strings.Repeat("x", 1<<15)} {
			call(text)
		}
		return v.dial(ctx, port)
	}
	c, served, err := r.dial(t, &client.Vsock{Dial: dial, Required: true}, v.listen)
	if err != nil {
		t.Fatal(err)
	}
	strangers.Wait() // they are turned away at the latest when the host is in
	r.works(t, c)
	c.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// The secrets are good for one connection.
func TestSecretIsGoodOnce(t *testing.T) {
	v, terms := newFakeVsock(t), api.NewVsockTerms()
	l, err := v.listen()
	if err != nil {
		t.Fatal(err)
	}
	d := openDoor(l, terms)
	defer d.close()
	var answered int
	for range 2 {
		conn, err := v.dial(t.Context(), vsockPort)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if err := api.WriteLine(conn, api.VsockSecret{Secret: terms.Host}); err != nil {
			t.Fatal(err)
		}
		var got api.VsockSecret
		if err := api.ReadLine(conn, &got); err == nil && got.Proves(terms.Agent) {
			answered++
		}
	}
	if answered != 1 {
		t.Errorf("%d callers were answered", answered)
	}
	conn, err := d.take()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// The host goes away at any point of the agreement: the agent is ready for the
// next greeting.
func TestHostLeavesTheAgreement(t *testing.T) {
	for name, last := range map[string]any{
		"before the choice": nil,
		"an unknown choice": api.CarrierChoice{Carrier: "pigeon"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newFakeVsock(t)
			mine, port := connPair(t)
			go func() {
				defer mine.Close()
				api.ReadLine(mine, &api.VsockOffer{})
				if last != nil {
					api.WriteLine(mine, last)
				}
			}()
			carrier, err := Carrier(port, api.NewVsockTerms(), v.listen)
			if err == nil {
				t.Errorf("a session over %v", carrier)
			}
			if _, err := v.dial(t.Context(), vsockPort); err == nil {
				t.Error("the agent still listens")
			}
			port.Close()
		})
	}
}
