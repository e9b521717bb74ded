package pull_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// large is the blob of the sample that faults are tried on.
func large(img *registrytest.Image) (digest.Digest, []byte) {
	return digest.FromBytes(img.Layers[0].Blob), img.Layers[0].Blob
}

// once does something with the first request for a blob, and leaves the others.
func once(d digest.Digest, do http.HandlerFunc) registrytest.Intercept {
	var done atomic.Bool
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodGet && registrytest.IsBlob(r, d) && !done.Swap(true) {
			do(w, r)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// half sends the first half of a blob.
func half(w http.ResponseWriter, text []byte) {
	w.Write(text[:len(text)/2])
	w.(http.Flusher).Flush()
}

// hangUp ends a connection in the middle, with or without a reset.
func hangUp(w http.ResponseWriter, reset bool) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	if reset {
		conn.(*net.TCPConn).SetLinger(0)
	}
	conn.Close()
}

// What breaks is carried on where it has stopped, and where that cannot be, from
// the beginning.
func TestFaultsThatAreOvercome(t *testing.T) {
	img := sample(t)
	d, text := large(img)
	length := strconv.Itoa(len(text))
	middle := fmt.Sprintf("bytes=%d-", len(text)/2)
	for name, c := range map[string]struct {
		fault   registrytest.Intercept
		ranges  string        // that has to be asked for; "" for none
		timeout time.Duration // of progress
	}{
		"stall before headers": {fault: once(d, func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), timeout: 500 * time.Millisecond},
		"stall in the body": {fault: once(d, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", length)
			half(w, text)
			<-r.Context().Done()
		}), ranges: middle, timeout: 500 * time.Millisecond},
		// All is there: nobody waits for the end.
		"stall after the last byte": {fault: once(d, func(w http.ResponseWriter, r *http.Request) {
			w.Write(text)
			w.(http.Flusher).Flush() // chunked: the end is still to come
			<-r.Context().Done()
		})},
		"reset": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", length)
			half(w, text)
			hangUp(w, true)
		})},
		"reset before headers": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) { hangUp(w, true) })},
		"truncated": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", length)
			half(w, text)
			hangUp(w, false)
		}), ranges: middle},
		"truncated with a wrong length": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)/2))
			half(w, text)
		}), ranges: middle},
		"truncated without a length": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			fmt.Fprint(conn, "HTTP/1.0 200 OK\r\nContent-Type: x/y\r\n\r\n")
			conn.Write(text[:len(text)/2])
		}), ranges: middle},
		"trailing bytes": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.Write(append(append([]byte{}, text...), "and more"...))
		})},
		"range is ignored": {fault: broken(d, text, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Write(text)
		}), ranges: middle},
		"range is another": {fault: broken(d, text, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(text)-1, len(text)))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(text)
		}), ranges: middle},
		"range without a header": {fault: broken(d, text, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusPartialContent)
			w.Write(text[len(text)/2:])
		}), ranges: middle},
		"range is refused": {fault: broken(d, text, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		}), ranges: middle},
		"too many requests": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
		})},
		"unavailable": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		})},
		"error of the server": {fault: once(d, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
		})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, client := registrytest.New(t), newClient(t)
			r.Add("x", "latest", img)
			r.Intercept(c.fault)
			client.registry.ProgressTimeout = c.timeout
			client.whole(t, client.must(t, r.Host()+"/x"), img)
			asked := false
			for _, request := range r.Requests() {
				asked = asked || c.ranges != "" && strings.HasSuffix(request, d.String()+" "+c.ranges)
			}
			if asked != (c.ranges != "") {
				t.Errorf("requests %q: want one for the range %q", r.Requests(), c.ranges)
			}
		})
	}
}

// broken breaks the first request for a blob in the middle, and answers those
// for the rest as it is told.
func broken(d digest.Digest, text []byte, rest registrytest.Intercept) registrytest.Intercept {
	first := once(d, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		half(w, text)
		hangUp(w, false)
	})
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if registrytest.IsBlob(r, d) && r.Header.Get("Range") != "" {
			rest(w, r, next)
			return
		}
		first(w, r, next)
	}
}

// What cannot be overcome is an error that says what is wrong, and leaves
// nothing that a later pull trips over.
func TestFaultsThatAreReported(t *testing.T) {
	img := sample(t)
	d, text := large(img)
	always := func(do http.HandlerFunc) registrytest.Intercept {
		return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if registrytest.IsBlob(r, d) {
				do(w, r)
				return
			}
			next.ServeHTTP(w, r)
		}
	}
	wrong := append([]byte{}, text...)
	wrong[len(wrong)/2] ^= 1
	for name, c := range map[string]struct {
		fault   registrytest.Intercept
		is      error
		timeout time.Duration
		gets    int // of the blob, at most
	}{
		"wrong content": {fault: always(func(w http.ResponseWriter, _ *http.Request) { w.Write(wrong) }), is: registry.ErrDigest, gets: 1},
		"never anything": {fault: always(func(w http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		}), is: registry.ErrStalled, timeout: 50 * time.Millisecond, gets: 5},
		"always half, and ranges ignored": {fault: always(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", strconv.Itoa(len(text)))
			half(w, text)
			hangUp(w, false)
		}), is: nil, gets: 6},
		"not there":       {fault: always(http.NotFound), is: registry.ErrNotFound, gets: 1},
		"forbidden":       {fault: always(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }), is: registry.ErrUnauthorized, gets: 1},
		"always an error": {fault: always(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }), is: nil, gets: 6},
		"to be tried next week": {fault: always(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "604800")
			w.WriteHeader(http.StatusTooManyRequests)
		}), is: nil, gets: 1},
		"redirects for ever": {fault: always(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
		}), is: nil, gets: 6},
		"wrong manifest": {fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.Method == http.MethodGet && registrytest.IsManifest(r) {
				w.Write([]byte(`{"schemaVersion":2}`))
				return
			}
			next.ServeHTTP(w, r)
		}, is: registry.ErrDigest},
		"wrong manifest of a tag": {fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if registrytest.IsManifest(r) {
				if r.Method == http.MethodHead {
					w.WriteHeader(http.StatusMethodNotAllowed)
					return
				}
				w.Header().Set("Docker-Content-Digest", digest.FromString("another").String())
				w.Write(img.Manifest)
				return
			}
			next.ServeHTTP(w, r)
		}, is: registry.ErrDigest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, client := registrytest.New(t), newClient(t)
			r.Add("x", "latest", img)
			r.Intercept(c.fault)
			client.registry.ProgressTimeout = c.timeout
			_, err := client.do(t.Context(), r.Host()+"/x")
			if err == nil || c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("got %v, want %v", err, c.is)
			}
			if got := r.Gets()[d]; got > c.gets {
				t.Errorf("the blob was asked for %d times", got)
			}
			r.Intercept(nil)
			client.registry.ProgressTimeout = 0
			client.whole(t, client.must(t, r.Host()+"/x"), img)
		})
	}
}

// A registry that says nothing of digests, as plain file servers do.
func TestRegistryWithoutDigests(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	img := sample(t)
	r.Add("x", "latest", img)
	r.Intercept(func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		rec := httptest.NewRecorder()
		r.Intercept(nil)
		r.ServeHTTP(rec, req)
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes())
	})
	c.whole(t, c.must(t, r.Host()+"/x"), img)
}

// A disk that is slower than the registry may be silent makes no stall.
func TestSlowDiskIsNoStall(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	img := sample(t)
	r.Add("x", "latest", img)
	c.registry.ProgressTimeout = 2 * time.Second
	slow := sync.OnceFunc(func() { time.Sleep(5 * time.Second) })
	s, err := store.Open(c.store.Root(), store.Options{Hook: func(step string) error {
		if step == "blob.fdatasync:before" || step == "blob.write:after" {
			slow()
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.store = s
	c.whole(t, c.must(t, r.Host()+"/x"), img)
	for d, n := range r.Gets() {
		if n != 1 {
			t.Errorf("%s was asked for %d times", d, n)
		}
	}
}

// What an earlier process has begun is carried on.
func TestPullCarriesOn(t *testing.T) {
	img := sample(t)
	d, text := large(img)
	for name, begun := range map[string][]byte{
		"right": text[:1000], "wrong": []byte(strings.Repeat("x", 1000)), "all": text, "too long": append(text[:len(text):len(text)], 'x'),
	} {
		t.Run(name, func(t *testing.T) {
			r, c := registrytest.New(t), newClient(t)
			r.Add("x", "latest", img)
			if err := os.WriteFile(filepath.Join(c.store.Root(), "partial", d.Encoded()), begun, 0o600); err != nil {
				t.Fatal(err)
			}
			c.whole(t, c.must(t, r.Host()+"/x"), img)
			var asked []string
			for _, request := range r.Requests() {
				if strings.HasPrefix(request, "GET x/blobs/"+d.String()) {
					asked = append(asked, strings.TrimPrefix(request, "GET x/blobs/"+d.String()))
				}
			}
			want := map[string][]string{"right": {" bytes=1000-"}, "wrong": {" bytes=1000-", ""}, "all": nil, "too long": {""}}[name]
			if !slices.Equal(asked, want) {
				t.Errorf("asked for %q, want %q", asked, want)
			}
		})
	}
}

// credentialsOf makes an auth file.
func credentialsOf(t *testing.T, host string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth.json")
	text := fmt.Sprintf(`{"auths":{%q:{"auth":"dXNlcjpwYXNz"}}}`, host) // user:pass
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBasicCredentials(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	img := sample(t)
	r.Add("some/x", "latest", img)
	r.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if user, password, _ := req.BasicAuth(); user != "user" || password != "pass" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
	if _, err := c.do(t.Context(), r.Host()+"/some/x"); err == nil {
		t.Error("without credentials it was pulled")
	}
	for name, key := range map[string]string{
		"docker": r.Host(), "podman's folder": r.Host() + "/some", "podman's repository": r.Host() + "/some/x", "URL": "http://" + r.Host() + "/v2/",
	} {
		c := newClient(t)
		c.registry.AuthFile = credentialsOf(t, key)
		if img, err := c.do(t.Context(), r.Host()+"/some/x"); err != nil || img == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c.registry.AuthFile = credentialsOf(t, "other.example")
	if _, err := c.do(t.Context(), r.Host()+"/some/x"); err == nil {
		t.Error("with another host's credentials it was pulled")
	}
	c.registry.Username, c.registry.Password = "user", "pass"
	c.whole(t, c.must(t, r.Host()+"/some/x"), img)
}

// tokens is a registry with tokens that are good for so many requests.
func tokens(r *registrytest.Registry, good int) (issued *atomic.Int64) {
	issued = new(atomic.Int64)
	var mu sync.Mutex
	left := map[string]int{}
	r.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		mu.Lock()
		defer mu.Unlock()
		if req.URL.Path == "/token" {
			token := fmt.Sprintf("token-%d", issued.Add(1))
			left[token] = good
			if user, password, _ := req.BasicAuth(); user != "user" || password != "pass" || req.URL.Query().Get("scope") != "repository:x:pull" {
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			fmt.Fprintf(w, `{"token":%q}`, token)
			return
		}
		token := strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer ")
		if left[token] == 0 {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="x",scope="repository:x:pull"`, r.Host()))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		left[token]--
		next.ServeHTTP(w, req)
	})
	return issued
}

// A token that expires in the middle of a pull is renewed.
func TestTokenExpiry(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	img := sample(t)
	r.Add("x", "latest", img)
	issued := tokens(r, 2)
	c.registry.AuthFile = credentialsOf(t, r.Host())
	c.pull.Downloads = 1
	c.whole(t, c.must(t, r.Host()+"/x"), img)
	if n := issued.Load(); n < 3 {
		t.Errorf("%d tokens", n)
	}
}

// Blobs may come from elsewhere, and credentials do not go there.
func TestRedirectDropsAuthorization(t *testing.T) {
	r, c := registrytest.New(t), newClient(t)
	img := sample(t)
	r.Add("x", "latest", img)
	elsewhere := registrytest.New(t)
	elsewhere.Add("x", "latest", img)
	var leaked, served atomic.Int64
	elsewhere.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		served.Add(1)
		if req.Header.Get("Authorization") != "" || req.Header.Get("X-Secret") != "" || req.Header.Get("Cookie") != "" {
			leaked.Add(1)
		}
		next.ServeHTTP(w, req)
	})
	r.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if user, _, _ := req.BasicAuth(); user != "user" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if registrytest.IsBlob(req, "") {
			http.Redirect(w, req, "http://"+elsewhere.Host()+req.URL.Path, http.StatusTemporaryRedirect)
			return
		}
		next.ServeHTTP(w, req)
	})
	c.registry.AuthFile = credentialsOf(t, r.Host())
	c.registry.CertsDirs = []string{hosts(t, r.Host(), fmt.Sprintf("server = \"http://%s\"\n[header]\nx-secret = \"s\"\n", r.Host()))}
	c.whole(t, c.must(t, r.Host()+"/x"), img)
	if leaked.Load() != 0 || served.Load() == 0 {
		t.Errorf("%d of %d requests elsewhere had credentials", leaked.Load(), served.Load())
	}
}

// hosts makes a folder with the hosts.toml of a registry.
func hosts(t *testing.T, host, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, host), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, host, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}
