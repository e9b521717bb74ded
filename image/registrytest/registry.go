// Package registrytest is a registry for tests: it serves what it is given,
// counts who asks for what, and misbehaves as it is told. Only tests use it.
package registrytest

import (
	"bytes"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Registry is a registry on loopback.
type Registry struct {
	*httptest.Server

	mu        sync.Mutex // guards what follows
	content   map[digest.Digest]content
	tags      map[string]digest.Digest // by repository:tag
	requests  []string                 // METHOD path, and the range if there is one
	intercept Intercept
}

// content is a manifest or a blob.
type content struct {
	mediaType string
	text      []byte
}

// Intercept may answer a request in the place of the registry, which next is.
type Intercept func(w http.ResponseWriter, r *http.Request, next http.Handler)

// New starts a registry that speaks HTTP.
func New(t testing.TB) *Registry {
	t.Helper()
	r := NewUnstarted(t)
	r.Start()
	return r
}

// NewUnstarted makes a registry that can be changed before it starts.
func NewUnstarted(t testing.TB) *Registry {
	t.Helper()
	r := &Registry{content: map[digest.Digest]content{}, tags: map[string]digest.Digest{}}
	r.Server = httptest.NewUnstartedServer(r)
	t.Cleanup(func() {
		r.CloseClientConnections() // of those that are stalled
		r.Close()
	})
	return r
}

// Host is the registry as in references.
func (r *Registry) Host() string { return r.Listener.Addr().String() }

// Intercept sets what may answer instead; nil is nobody.
func (r *Registry) Intercept(f Intercept) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.intercept = f
}

// Put adds content under its digest.
func (r *Registry) Put(mediaType string, text []byte) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := digest.FromBytes(text)
	r.content[d] = content{mediaType, text}
	return d
}

// Replace makes a digest stand for content that is not its.
func (r *Registry) Replace(d digest.Digest, text []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.content[d] = content{r.content[d].mediaType, text}
}

// Tag gives content a name.
func (r *Registry) Tag(repository, tag string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tags[repository+":"+tag] = d
}

// Requests lists what was asked for so far: the method, the path below /v2/,
// and the range.
func (r *Registry) Requests() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

// Gets counts the GET requests for each blob.
func (r *Registry) Gets() map[digest.Digest]int {
	gets := map[digest.Digest]int{}
	for _, request := range r.Requests() {
		if path, ok := strings.CutPrefix(request, "GET "); ok {
			if _, d, ok := strings.Cut(strings.Fields(path)[0], "/blobs/"); ok {
				gets[digest.Digest(d)]++
			}
		}
	}
	return gets
}

// Forget empties the list of requests.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// Contents lists the digests of all content.
func (r *Registry) Contents() []digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.content))
}

func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	line := req.Method + " " + strings.TrimPrefix(req.URL.Path, "/v2/")
	if s := req.Header.Get("Range"); s != "" {
		line += " " + s
	}
	r.mu.Lock()
	r.requests = append(r.requests, line)
	intercept := r.intercept
	r.mu.Unlock()
	if intercept != nil {
		intercept(w, req, http.HandlerFunc(r.serve))
		return
	}
	r.serve(w, req)
}

// serve is the registry without faults.
func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	path := strings.TrimPrefix(req.URL.Path, "/v2/")
	if path == "" {
		return
	}
	for _, kind := range []string{"/manifests/", "/blobs/"} {
		repository, reference, ok := strings.Cut(path, kind)
		if !ok {
			continue
		}
		r.mu.Lock()
		d, tagged := r.tags[repository+":"+reference]
		if !tagged {
			d = digest.Digest(reference)
		}
		c, there := r.content[d]
		r.mu.Unlock()
		if !there {
			break
		}
		w.Header().Set("Docker-Content-Digest", d.String())
		w.Header().Set("Content-Type", c.mediaType)
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(c.text))
		return
	}
	http.Error(w, `{"errors":[{"code":"NAME_UNKNOWN","message":"no such thing"}]}`, http.StatusNotFound)
}

// IsBlob reports whether a request is for a blob of the digest; "" is any.
func IsBlob(r *http.Request, d digest.Digest) bool {
	_, of, ok := strings.Cut(r.URL.Path, "/blobs/")
	return ok && (d == "" || of == d.String())
}

// IsManifest reports whether a request is for a manifest or index.
func IsManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }
