package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// watchdog ends a request to which the other side has been silent for the
// timeout. It watches only while something is awaited: the headers, or a read
// of the body. What the reader does with the bytes, such as a slow write to a
// disk, is never under it; at the end of the body the connection is done with.
type watchdog struct {
	base    http.RoundTripper
	timeout time.Duration // 0 is never
}

func (w *watchdog) RoundTrip(req *http.Request) (*http.Response, error) {
	if w.timeout == 0 {
		return w.base.RoundTrip(req)
	}
	ctx, cancel := context.WithCancelCause(req.Context())
	timer := time.AfterFunc(w.timeout, func() { cancel(ErrStalled) })
	resp, err := w.base.RoundTrip(req.WithContext(ctx))
	timer.Stop()
	if err != nil {
		err = stalled(ctx, err)
		cancel(nil)
		return nil, err
	}
	resp.Body = &watched{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, timer: timer, timeout: w.timeout}
	return resp, nil
}

// watched is a body under the watchdog.
type watched struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
	close   sync.Once
	err     error
}

func (w *watched) Read(b []byte) (int, error) {
	w.timer.Reset(w.timeout)
	n, err := w.ReadCloser.Read(b)
	w.timer.Stop()
	switch {
	case errors.Is(err, io.EOF):
		w.Close()
	case err != nil:
		err = stalled(w.ctx, err)
	}
	return n, err
}

func (w *watched) Close() error {
	w.close.Do(func() {
		w.timer.Stop()
		w.err = w.ReadCloser.Close()
		w.cancel(nil)
	})
	return w.err
}

// stalled makes ErrStalled of an error that comes from it.
func stalled(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrStalled) {
		return ErrStalled
	}
	return err
}

// policy says when an answer that is no answer is asked for again: 408, 429
// and 5xx, after what Retry-After says, or ever longer.
type policy struct{ first time.Duration }

const (
	maxRetries = 5
	// longestWait is what we wait for when told to: for longer the user decides.
	longestWait = 2 * time.Minute
)

// Retry is retry.Policy's: how long to wait, negative for no further try.
func (p policy) Retry(attempt int, resp *http.Response, err error) (time.Duration, error) {
	if err != nil || attempt >= maxRetries {
		return -1, nil
	}
	switch code := resp.StatusCode; {
	case code == http.StatusRequestTimeout, code == http.StatusTooManyRequests:
	case code >= 500 && code != http.StatusNotImplemented:
	default:
		return -1, nil
	}
	if wait, ok := retryAfter(resp, time.Now()); ok {
		if wait > longestWait {
			return -1, nil
		}
		return wait, nil
	}
	return backoff(p.first, attempt), nil
}

// backoff doubles with each attempt, and is not the same for all.
func backoff(first time.Duration, attempt int) time.Duration {
	d := first << min(attempt, 6)
	return d/2 + rand.N(d)
}

// retryAfter reads the header: seconds, or a date (RFC 9110, 10.2.3).
func retryAfter(resp *http.Response, now time.Time) (time.Duration, bool) {
	v := resp.Header.Get("Retry-After")
	if v == "" {
		return 0, false
	}
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0), true
	}
	return 0, false
}

// maxErrorBody is how much of an error's text is read.
const maxErrorBody = 8 << 10

// statusError makes an error of an answer, with what the registry says.
func statusError(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	var body struct {
		Errors []struct{ Code, Message string }
	}
	said := ""
	if json.Unmarshal(text, &body) == nil && len(body.Errors) > 0 {
		said = fmt.Sprintf(" (%s: %s)", body.Errors[0].Code, body.Errors[0].Message)
	}
	if v := resp.Header.Get("Retry-After"); v != "" {
		said += fmt.Sprintf(" (to be tried again after %q)", v)
	}
	err := fmt.Errorf("%s %s: status %d%s", resp.Request.Method, resp.Request.URL.Redacted(), resp.StatusCode, said)
	switch resp.StatusCode {
	case http.StatusNotFound:
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	case http.StatusUnauthorized, http.StatusForbidden:
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	return err
}
