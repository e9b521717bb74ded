package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// Sink is a blob on its way: store.Partial.
type Sink interface {
	io.Writer
	Offset() int64         // how many bytes there are
	Size() int64           // how many there will be
	Digest() digest.Digest // of those that there are
	Restart() error
}

// Manifest is a manifest or index, as it was served.
type Manifest struct {
	MediaType string // as the registry says; the text may say otherwise
	Digest    digest.Digest
	Text      []byte
}

// accept lists what can be made of what a registry may have.
var accept = strings.Join([]string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}, ", ")

// digestHeader says what a tag stands for.
const digestHeader = "Docker-Content-Digest"

// Resolve asks what a tag stands for. "" without an error means that the
// registry does not say, and that the manifest is to be fetched by its tag.
func (r *Repository) Resolve(ctx context.Context, tag string) (digest.Digest, error) {
	var d digest.Digest
	err := r.try(ctx, true, func(e *endpoint) error {
		resp, err := e.do(ctx, http.MethodHead, "manifests/"+tag, http.Header{"Accept": {accept}}, http.StatusOK, http.StatusMethodNotAllowed)
		if err != nil {
			return err
		}
		resp.Body.Close()
		d = digest.Digest(resp.Header.Get(digestHeader))
		if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			d = ""
		}
		return nil
	})
	return d, r.wrap("resolve "+tag, err)
}

// Manifest fetches a manifest by tag or digest, of at most limit bytes. By
// digest it is checked.
func (r *Repository) Manifest(ctx context.Context, reference string, limit int64) (*Manifest, error) {
	var m *Manifest
	want := digest.Digest(reference)
	byDigest := want.Validate() == nil
	err := r.try(ctx, !byDigest, func(e *endpoint) error {
		resp, err := e.do(ctx, http.MethodGet, "manifests/"+reference, http.Header{"Accept": {accept}}, http.StatusOK)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
		if err != nil {
			return &brokenError{err}
		}
		if int64(len(text)) > limit {
			return fmt.Errorf("%w: more than %d bytes", ErrTooLarge, limit)
		}
		if got := digest.FromBytes(text); byDigest && got != want {
			return fmt.Errorf("%w: %s instead of %s", ErrDigest, got, want)
		}
		if said := digest.Digest(resp.Header.Get(digestHeader)); said.Validate() == nil && said.Algorithm() == digest.SHA256 && said != digest.FromBytes(text) {
			return fmt.Errorf("%w: %s instead of %s", ErrDigest, digest.FromBytes(text), said)
		}
		if e.mirror && !isDocument(text) {
			return fmt.Errorf("%w: %q", ErrNoManifest, resp.Header.Get("Content-Type"))
		}
		m = &Manifest{Digest: digest.FromBytes(text), Text: text}
		m.MediaType, _, _ = mime.ParseMediaType(resp.Header.Get("Content-Type"))
		return nil
	})
	return m, r.wrap("manifest "+reference, err)
}

// isDocument reports whether a text can be a manifest or index: an error page that a
// mirror serves with the status of success cannot.
func isDocument(text []byte) bool {
	var doc struct{ SchemaVersion int }
	return json.Unmarshal(text, &doc) == nil && doc.SchemaVersion != 0
}

// Fetch writes a blob into the sink, from its offset on. What breaks is carried
// on, and what has another digest than it should have is not kept.
func (r *Repository) Fetch(ctx context.Context, d digest.Digest, sink Sink) error {
	if sink.Offset() == sink.Size() {
		return nil
	}
	whole := false                    // ranges are not to be trusted
	again := make(map[*endpoint]bool) // that have been asked for all of it
	err := r.try(ctx, false, func(e *endpoint) error {
		began := sink.Offset()
		if err := e.fetch(ctx, d, sink, &whole); err != nil {
			return err
		}
		got := sink.Digest()
		if got == d {
			return nil
		}
		if err := sink.Restart(); err != nil {
			return &sinkError{err}
		}
		err := fmt.Errorf("%w: it is %s", ErrDigest, got)
		if began > 0 && !again[e] { // what was there may have been wrong, of another endpoint
			again[e] = true
			return &brokenError{err}
		}
		return err
	})
	return r.wrap("blob "+d.String(), err)
}

func (r *Repository) wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s: %w", r.name, what, err)
}

// fruitless is how many tries in a row may bring nothing new.
const fruitless = 5

// try does something at each of the endpoints in turn, until it works, and warns of
// those that should have been able to. What breaks on the way is tried again. resolve
// leaves out the mirrors that may not say what a tag stands for.
func (r *Repository) try(ctx context.Context, resolve bool, do func(*endpoint) error) error {
	var errs []error
	for _, e := range r.endpoints {
		if resolve && !e.resolve {
			continue
		}
		err := r.repeat(ctx, func() error { return do(e) })
		if err == nil {
			r.warnOf(errs)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.As(err, new(*sinkError)) {
			return err // the disk's fault
		}
		if e.mirror {
			err = &mirrorError{e, err}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// warnOf tells of mirrors that were given up, of each once. One that does not have
// something is as it may be.
func (r *Repository) warnOf(errs []error) {
	for _, err := range errs {
		m, ok := errors.AsType[*mirrorError](err)
		if ok && r.warn != nil && !errors.Is(err, ErrNotFound) {
			m.at.warned.Do(func() { r.warn(err) })
		}
	}
}

// mirrorError is what a mirror has failed with.
type mirrorError struct {
	at    *endpoint
	cause error
}

func (e *mirrorError) Error() string { return fmt.Sprintf("mirror %s: %v", e.at.base.Host, e.cause) }
func (e *mirrorError) Unwrap() error { return e.cause }

// repeat does something again after a connection has broken, or was silent, unless that
// has happened too often without anything new having come.
func (r *Repository) repeat(ctx context.Context, do func() error) error {
	for failures := 0; ; {
		err := do()
		if err == nil || ctx.Err() != nil || !broken(err) {
			return err
		}
		if progress, ok := errors.AsType[*progressError](err); ok && progress.more {
			failures = 0
		}
		if failures++; failures >= fruitless {
			return err
		}
		timer := time.NewTimer(backoff(r.backoff, failures-1))
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// broken reports whether an error is the connection's, and not an answer.
func broken(err error) bool {
	return errors.Is(err, ErrStalled) || errors.As(err, new(*brokenError)) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// brokenError is a body that ended early.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

// sinkError is an error of the sink: no other endpoint makes that better.
type sinkError struct{ error }

func (e *sinkError) Unwrap() error { return e.error }

// progressError says whether a try has brought something that was not there
// before.
type progressError struct {
	error
	more bool
}

func (e *progressError) Unwrap() error { return e.error }

// fetch is one request for a blob, or for the rest of it.
func (e *endpoint) fetch(ctx context.Context, d digest.Digest, sink Sink, whole *bool) error {
	best := sink.Offset()
	body, err := e.open(ctx, d, sink, whole)
	if err != nil {
		return err
	}
	defer body.Close()
	// Not to the end of the body but to the end of the blob: what comes after
	// it, or does not, is not waited for.
	rest := io.LimitReader(readErrors{body}, sink.Size()-sink.Offset())
	_, err = io.CopyBuffer(writeErrors{sink}, rest, make([]byte, copyBuffer))
	if err == nil && sink.Offset() < sink.Size() {
		err = &brokenError{fmt.Errorf("%d bytes instead of %d: %w", sink.Offset(), sink.Size(), io.ErrUnexpectedEOF)}
	}
	if err != nil {
		return &progressError{err, sink.Offset() > best}
	}
	return nil
}

const copyBuffer = 256 << 10

// open asks for a blob from the sink's offset on. A registry that sends all of it, or
// another part, makes the sink begin anew.
func (e *endpoint) open(ctx context.Context, d digest.Digest, sink Sink, whole *bool) (io.ReadCloser, error) {
	header := http.Header{}
	offset := sink.Offset()
	if *whole && offset > 0 {
		if err := sink.Restart(); err != nil {
			return nil, &sinkError{err}
		}
		offset = 0
	}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := e.do(ctx, http.MethodGet, "blobs/"+d.String(), header,
		http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK && e.mirror && resp.ContentLength >= 0 && resp.ContentLength != sink.Size():
		resp.Body.Close() // an error page, say: to ask again would not help
		return nil, fmt.Errorf("%w: it has %d bytes instead of %d", ErrDigest, resp.ContentLength, sink.Size())
	case resp.StatusCode == http.StatusOK:
		if offset > 0 {
			err = sink.Restart()
		}
		if err != nil {
			resp.Body.Close()
			return nil, &sinkError{err}
		}
		return resp.Body, nil
	case resp.StatusCode == http.StatusPartialContent && offset > 0 && rangeIs(resp.Header.Get("Content-Range"), offset, sink.Size()):
		return resp.Body, nil
	}
	resp.Body.Close()
	*whole = true
	return nil, &brokenError{fmt.Errorf("status %d with the range %q, for one from %d on", resp.StatusCode, resp.Header.Get("Content-Range"), offset)}
}

var contentRange = regexp.MustCompile(`^bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)$`)

// rangeIs reports whether a Content-Range is from offset on, of size bytes.
func rangeIs(header string, offset, size int64) bool {
	m := contentRange.FindStringSubmatch(header)
	if m == nil || m[3] != "*" && m[3] != strconv.FormatInt(size, 10) {
		return false
	}
	last, err := strconv.ParseInt(m[2], 10, 64)
	return err == nil && m[1] == strconv.FormatInt(offset, 10) && last >= offset && last < size
}

// readErrors marks the errors of a body, but its end.
type readErrors struct{ io.Reader }

func (r readErrors) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = &brokenError{err}
	}
	return n, err
}

// writeErrors marks the errors of a sink.
type writeErrors struct{ io.Writer }

func (w writeErrors) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if err != nil {
		err = &sinkError{err}
	}
	return n, err
}
