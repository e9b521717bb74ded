package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/ref"
)

// memorySink is a blob on its way, in memory.
type memorySink struct {
	text []byte
	size int64
}

func (s *memorySink) Write(b []byte) (int, error) { s.text = append(s.text, b...); return len(b), nil }
func (s *memorySink) Offset() int64               { return int64(len(s.text)) }
func (s *memorySink) Size() int64                 { return s.size }
func (s *memorySink) Digest() digest.Digest       { return digest.FromBytes(s.text) }
func (s *memorySink) Restart() error              { s.text = nil; return nil }

// pipes is a listener whose connections live in memory, so that they have the
// test's clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	close sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.close.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return ours, nil
}

// trickle serves a blob one byte at a time: each after a time of silence, but the
// first of an answer after its own. It counts the requests.
func trickle(text []byte, first, silence time.Duration, requests *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		from := 0
		if s := r.Header.Get("Range"); s != "" {
			if _, err := fmt.Sscanf(s, "bytes=%d-", &from); err != nil {
				panic(err)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(text)-1, len(text)))
			w.WriteHeader(http.StatusPartialContent)
		}
		wait := first
		for i := range text[from:] {
			select {
			case <-time.After(wait):
			case <-r.Context().Done():
				return
			}
			w.Write(text[from+i : from+i+1])
			w.(http.Flusher).Flush()
			wait = silence
		}
	}
}

// A registry that sends a byte now and then. As long as none is awaited for longer
// than the timeout that is one request, however long all of it takes. One that is silent
// for longer is asked for the rest, as long as each time something comes; and what
// brings nothing new is given up.
func TestTrickle(t *testing.T) {
	const timeout = 5 * time.Minute // as by default
	text := []byte("forty bytes, of which each takes its time")
	for name, c := range map[string]struct {
		first, silence time.Duration
		requests       int64
		stalled        bool
		atLeast        time.Duration
	}{
		"a byte before each timeout": {timeout - time.Second, timeout - time.Second, 1, false, time.Duration(len(text)) * (timeout - time.Second)},
		"a byte for each request":    {time.Second, timeout + time.Second, int64(len(text)), false, time.Duration(len(text)-1) * timeout},
		"no byte for any request":    {timeout + time.Second, time.Second, fruitless, true, fruitless * timeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
				var requests atomic.Int64
				server := &http.Server{Handler: trickle(text, c.first, c.silence, &requests)}
				go server.Serve(l)
				defer server.Close()
				repo, err := New(Options{AuthFile: "/none", ProgressTimeout: timeout}).Repository(ref.Reference{Transport: ref.Registry, Host: "registry.test", Repository: "x", Tag: "1"})
				if err != nil {
					t.Fatal(err)
				}
				defer repo.Close()
				e := repo.endpoints[0]
				e.base = &url.URL{Scheme: "http", Host: "registry.test", Path: "/v2"}
				e.transport.DialContext, e.transport.Proxy = l.dial, nil
				began := time.Now()
				sink := &memorySink{size: int64(len(text))}
				err = repo.Fetch(t.Context(), digest.FromBytes(text), sink)
				if c.stalled != errors.Is(err, ErrStalled) || !c.stalled && (err != nil || string(sink.text) != string(text)) {
					t.Errorf("got %q, %v", sink.text, err)
				}
				if n := requests.Load(); n != c.requests {
					t.Errorf("%d requests, want %d", n, c.requests)
				}
				if took := time.Since(began); took < c.atLeast {
					t.Errorf("it took %v, less than the %v of silence", took, c.atLeast)
				}
			})
		})
	}
}
