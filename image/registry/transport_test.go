package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// tripper is the other side of a watchdog.
type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// script is a body that does one thing after the other. It ends with its
// request, as a connection does.
type script struct {
	ctx    context.Context
	steps  []step
	closed *bool
}

type step struct {
	wait time.Duration
	text string
}

func (s *script) Read(b []byte) (int, error) {
	if len(s.steps) == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(s.steps[0].wait):
	case <-s.ctx.Done():
		return 0, s.ctx.Err()
	}
	n := copy(b, s.steps[0].text)
	s.steps = s.steps[1:]
	return n, nil
}

func (s *script) Close() error {
	*s.closed = true
	return nil
}

// watch sends a request through a watchdog of ten seconds, and reads all of
// the answer, waiting after each read.
func watch(t *testing.T, header, after time.Duration, steps ...step) (text string, closed bool, err error) {
	t.Helper()
	w := &watchdog{timeout: 10 * time.Second, base: tripper(func(r *http.Request) (*http.Response, error) {
		select {
		case <-time.After(header):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
		return &http.Response{StatusCode: 200, Body: &script{r.Context(), steps, &closed}}, nil
	})}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := w.RoundTrip(req)
	if err != nil {
		return "", closed, err
	}
	var out bytes.Buffer
	b := make([]byte, 1024)
	for {
		n, err := resp.Body.Read(b)
		out.Write(b[:n])
		if errors.Is(err, io.EOF) {
			return out.String(), closed, nil
		}
		if err != nil {
			return out.String(), closed, errors.Join(err, resp.Body.Close())
		}
		time.Sleep(after)
	}
}

func TestWatchdog(t *testing.T) {
	const short, long = 9 * time.Second, 11 * time.Second
	for name, c := range map[string]struct {
		header, after time.Duration
		steps         []step
		stalled       bool
	}{
		"quick":                   {steps: []step{{0, "ab"}, {0, "c"}}},
		"slow to answer":          {header: short, steps: []step{{short, "ab"}, {short, "c"}}},
		"trickle":                 {steps: []step{{short, "a"}, {short, "b"}, {short, "c"}}},
		"slow disk":               {after: time.Hour, steps: []step{{0, "ab"}, {0, "c"}}},
		"slow disk and slow net":  {after: time.Hour, steps: []step{{short, "ab"}, {short, "c"}}},
		"silent before headers":   {header: long, stalled: true},
		"silent before the first": {steps: []step{{long, "abc"}}, stalled: true},
		"silent in the middle":    {steps: []step{{0, "ab"}, {long, "c"}}, stalled: true},
		"silent after slow disk":  {after: time.Hour, steps: []step{{0, "ab"}, {long, "c"}}, stalled: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				text, closed, err := watch(t, c.header, c.after, c.steps...)
				if errors.Is(err, ErrStalled) != c.stalled {
					t.Errorf("got %q, %v", text, err)
				}
				if !c.stalled && (err != nil || text != "abc") {
					t.Errorf("got %q, %v", text, err)
				}
				if c.header < long && !closed {
					t.Error("the body is still open")
				}
			})
		})
	}
}

// The user's own end is not a stall.
func TestWatchdogOfACancelledRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w := &watchdog{timeout: time.Minute, base: tripper(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://x/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.RoundTrip(req); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRetryPolicy(t *testing.T) {
	answer := func(code int, after string) *http.Response {
		r := &http.Response{StatusCode: code, Header: http.Header{}}
		if after != "" {
			r.Header.Set("Retry-After", after)
		}
		return r
	}
	p := policy{time.Second}
	for name, c := range map[string]struct {
		attempt   int
		resp      *http.Response
		err       error
		low, high time.Duration // negative: no further try
	}{
		"fine":            {0, answer(200, ""), nil, -1, -1},
		"not found":       {0, answer(404, "1"), nil, -1, -1},
		"unauthorized":    {0, answer(401, ""), nil, -1, -1},
		"busy":            {0, answer(503, ""), nil, time.Second / 2, 3 * time.Second / 2},
		"busy again":      {3, answer(500, ""), nil, 4 * time.Second, 12 * time.Second},
		"told":            {0, answer(429, "7"), nil, 7 * time.Second, 7 * time.Second},
		"told with 503":   {2, answer(503, "30"), nil, 30 * time.Second, 30 * time.Second},
		"told too long":   {0, answer(429, "3600"), nil, -1, -1},
		"told a date":     {0, answer(429, "Thu, 01 Jan 1970 00:00:00 GMT"), nil, 0, 0},
		"told nonsense":   {0, answer(429, "soon"), nil, time.Second / 2, 3 * time.Second / 2},
		"told negative":   {0, answer(429, "-1"), nil, time.Second / 2, 3 * time.Second / 2},
		"too often":       {maxRetries, answer(503, "1"), nil, -1, -1},
		"an error":        {0, nil, io.ErrUnexpectedEOF, -1, -1},
		"not made at all": {0, answer(501, ""), nil, -1, -1},
	} {
		got, err := p.Retry(c.attempt, c.resp, c.err)
		if err != nil || got < c.low || got > c.high {
			t.Errorf("%s: %v, %v; want %v to %v", name, got, err, c.low, c.high)
		}
	}
}

func TestRangeIs(t *testing.T) {
	for header, want := range map[string]bool{
		"bytes 10-99/100": true, "bytes 10-50/100": true, "bytes 10-99/*": true,
		"": false, "bytes 0-99/100": false, "bytes 10-100/100": false, "bytes 10-99/101": false, "bytes 10-9/100": false,
		"bytes */100": false, "chars 10-99/100": false, "bytes 10-99/100 ": false, "bytes 010-99/100": false,
		"bytes 99999999999999999999-1/100": false,
	} {
		if rangeIs(header, 10, 100) != want {
			t.Errorf("%q: want %v", header, want)
		}
	}
}
