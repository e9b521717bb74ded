package pull_test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
)

// A mirror is asked first, and what it lacks comes from the registry.
func TestMirrors(t *testing.T) {
	const name = "registry.example/x"
	origin, mirror := registrytest.New(t), registrytest.New(t)
	img := sample(t)
	origin.Add("x", "latest", img)
	text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", origin.Host(), mirror.Host())
	pullFrom := func(text string) {
		t.Helper()
		c := newClient(t)
		c.registry.CertsDirs = []string{"/none", hosts(t, "registry.example", text)}
		c.whole(t, c.must(t, name), img)
	}
	pullFrom(text)
	if len(mirror.Requests()) == 0 {
		t.Error("the mirror was not asked")
	}
	mirror.Add("x", "latest", img)
	origin.Forget()
	var namespaces sync.Map
	mirror.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		namespaces.Store(req.URL.Query().Get("ns"), true)
		next.ServeHTTP(w, req)
	})
	pullFrom(text)
	if got := origin.Requests(); len(got) > 0 {
		t.Errorf("the registry was asked for %q", got)
	}
	if _, ok := namespaces.Load("registry.example"); !ok {
		t.Error("the mirror was not told the registry")
	}
	// One that may not resolve says nothing of tags.
	mirror.Forget()
	pullFrom(strings.Replace(text, `, "resolve"`, "", 1))
	for _, request := range mirror.Requests() {
		if strings.HasSuffix(request, "/latest") {
			t.Errorf("the mirror was asked for %q", request)
		}
	}
	if len(mirror.Requests()) == 0 {
		t.Error("the mirror was not asked")
	}
	mirror.Close()
	pullFrom(text)
}

// page is what a proxy without a clue serves, with the status of success.
const page = "<html><body>Welcome to the mirror of everything!</body></html>"

// A mirror that serves something wrong is fetched past, blob by blob, and the user
// is told once.
func TestMirrorsThatServeWrongContent(t *testing.T) {
	img := sample(t)
	d, text := large(img)
	wrong := append([]byte("wrong"), text[5:]...)
	for name, c := range map[string]struct {
		fault http.HandlerFunc
		all   bool // requests are answered so, those for manifests as well
		quiet bool // it is no fault
	}{
		"bad digest":   {fault: func(w http.ResponseWriter, _ *http.Request) { w.Write(wrong) }},
		"too short":    {fault: func(w http.ResponseWriter, _ *http.Request) { w.Write(text[:len(text)/2]) }},
		"truncated":    {fault: func(w http.ResponseWriter, _ *http.Request) { half(w, text); hangUp(w, false) }},
		"wrong half":   {fault: func(w http.ResponseWriter, _ *http.Request) { half(w, wrong); hangUp(w, true) }},
		"endless":      {fault: func(w http.ResponseWriter, _ *http.Request) { half(w, wrong); half(w, wrong); half(w, wrong) }},
		"404":          {fault: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, quiet: true},
		"404 for all":  {fault: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, all: true, quiet: true},
		"500":          {fault: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
		"500 for all":  {fault: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, all: true},
		"HTML":         {fault: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) }},
		"HTML for all": {fault: func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, page) }, all: true},
	} {
		t.Run(name, func(t *testing.T) {
			first, second, origin := registrytest.New(t), registrytest.New(t), registrytest.New(t)
			for _, r := range []*registrytest.Registry{first, second, origin} {
				r.Add("x", "latest", img)
			}
			first.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if c.all || registrytest.IsBlob(req, d) {
					c.fault(w, req)
					return
				}
				next.ServeHTTP(w, req)
			})
			// The second has all but what the first serves wrong.
			second.Intercept(func(w http.ResponseWriter, req *http.Request, next http.Handler) {
				if registrytest.IsBlob(req, d) {
					w.WriteHeader(http.StatusNotFound)
					return
				}
				next.ServeHTTP(w, req)
			})
			client := newClient(t)
			client.registry.CertsDirs = []string{hosts(t, "registry.example", mirrors(origin, first, second))}
			warnings := client.warnings()
			client.whole(t, client.must(t, "registry.example/x"), img)
			if got := origin.Gets(); len(got) != 1 || got[d] == 0 {
				t.Errorf("the registry was asked for %v, want only %s", got, d)
			}
			if got := warnings(); c.quiet && len(got) != 0 || !c.quiet && (len(got) != 1 || !strings.Contains(got[0], first.Host())) {
				t.Errorf("the user was told %q", got)
			}
		})
	}
}

// Where nobody has the right content, that is the error, and says who served what.
func TestMirrorsAndRegistryServeWrongContent(t *testing.T) {
	img := sample(t)
	d, text := large(img)
	mirror, origin := registrytest.New(t), registrytest.New(t)
	for _, r := range []*registrytest.Registry{mirror, origin} {
		r.Add("x", "latest", img)
		r.Replace(d, append([]byte("wrong"), text[5:]...))
	}
	client := newClient(t)
	client.registry.CertsDirs = []string{hosts(t, "registry.example", mirrors(origin, mirror))}
	_, err := client.do(t.Context(), "registry.example/x")
	if !errors.Is(err, registry.ErrDigest) || !strings.Contains(err.Error(), "mirror "+mirror.Host()) {
		t.Errorf("got %v", err)
	}
	origin.Replace(d, text)
	client.whole(t, client.must(t, "registry.example/x"), img)
}

// mirrors is the hosts.toml of a registry.
func mirrors(origin *registrytest.Registry, mirrors ...*registrytest.Registry) string {
	text := fmt.Sprintf("server = \"http://%s\"\n", origin.Host())
	for _, m := range mirrors {
		text += fmt.Sprintf("[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", m.Host())
	}
	return text
}

// warnings gives what the user was told.
func (c *client) warnings() func() []string {
	var mu sync.Mutex
	var told []string
	c.registry.Warn = func(err error) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, err.Error())
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return told
	}
}
