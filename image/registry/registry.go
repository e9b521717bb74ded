// Package registry fetches manifests and blobs from registries that speak the
// OCI distribution protocol, through mirrors where the configuration names
// some. The commands use it.
//
// Registries are hostile: what they send is bounded, and checked against
// digests; credentials stay with the host that they are for.
package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	// The client for tokens, credentials and retries that ORAS and Flux use;
	// its OCI layout is not used, as it syncs nothing.
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"

	"github.com/vc-runtime/vc-runtime/image/ref"
)

var (
	// ErrStalled is given where a registry was silent for longer than the
	// progress timeout while something was awaited from it.
	ErrStalled = errors.New("the registry has sent nothing for the progress timeout")
	// ErrNotFound is given for what a registry does not have.
	ErrNotFound = errors.New("not found in the registry")
	// ErrUnauthorized is given where a registry wants other credentials, or
	// hides what it does not have.
	ErrUnauthorized = errors.New("access denied by the registry")
	// ErrTooLarge is given for a manifest or configuration beyond the limit.
	ErrTooLarge = errors.New("larger than allowed")
	// ErrDigest is given for content that is not what its digest says.
	ErrDigest = errors.New("content does not have the expected digest")
	// ErrNoManifest is given for what a mirror serves as a manifest and is none.
	ErrNoManifest = errors.New("neither a manifest nor an index")
)

// Options are the settings of a client.
type Options struct {
	// CertsDirs are searched for HOST/hosts.toml and certificates; the first that
	// has the folder counts.
	CertsDirs []string
	// AuthFile has the credentials; "" is the usual files of podman and docker.
	AuthFile string
	// Username and Password are used instead, for the registry itself.
	Username, Password string
	// ProgressTimeout is how long a registry may be silent; 0 is for ever.
	ProgressTimeout time.Duration
	// Insecure takes any certificate, and HTTP where there is no HTTPS. HTTP is
	// tried for loopback addresses anyway.
	Insecure bool
	// Backoff is the first wait before something is tried again; it doubles.
	// 0 is 250 ms.
	Backoff   time.Duration
	UserAgent string
	// Warn is told of mirrors that something had to be fetched past, of each
	// once for a Repository, by any goroutine. It may be nil.
	Warn func(error)
}

// Client is a client of registries. Tokens are shared by its repositories.
type Client struct {
	opts  Options
	cache auth.Cache
}

// New makes a client.
func New(opts Options) *Client {
	if opts.Backoff == 0 {
		opts.Backoff = 250 * time.Millisecond
	}
	if opts.UserAgent == "" {
		opts.UserAgent = "vc-runtime"
	}
	return &Client{opts: opts, cache: auth.NewCache()}
}

// Repository is one repository, at its mirrors and at its registry.
type Repository struct {
	name      string // as in references
	endpoints []*endpoint
	backoff   time.Duration
	warn      func(error)
}

// Repository gives the repository of a reference.
func (c *Client) Repository(r ref.Reference) (*Repository, error) {
	if r.Transport != ref.Registry {
		return nil, fmt.Errorf("%s: not in a registry", r)
	}
	hosts, err := findHosts(c.opts.CertsDirs, r.Host)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", r.Host, err)
	}
	repo := &Repository{name: r.Name(), backoff: c.opts.Backoff, warn: c.opts.Warn}
	for _, h := range hosts {
		e, err := c.endpoint(h, r)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", r.Host, err)
		}
		repo.endpoints = append(repo.endpoints, e)
	}
	return repo, nil
}

// Close ends idle connections.
func (r *Repository) Close() {
	for _, e := range r.endpoints {
		e.transport.CloseIdleConnections()
	}
}

// endpoint is where a repository can be fetched from.
type endpoint struct {
	host
	repository string
	namespace  string // the registry that a mirror is asked about
	client     *auth.Client
	transport  *http.Transport

	plain http.RoundTripper // watched, without retries and tokens

	mu    sync.Mutex // guards maybe, and the base's scheme while it is set
	maybe bool       // speaks HTTP, maybe: settle finds out

	warned sync.Once
}

// endpoint makes the client of one host: watchdog, retries, tokens, from the
// connection upwards.
func (c *Client) endpoint(h host, r ref.Reference) (*endpoint, error) {
	tlsConfig, err := h.tlsConfig(c.opts.Insecure)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: dialTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true, // digests and ranges are of what is sent
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     30 * time.Second,
		// A registry's headers are short.
		MaxResponseHeaderBytes: 256 << 10,
	}
	e := &endpoint{host: h, repository: r.Repository, transport: transport}
	if h.mirror {
		e.namespace = r.Host
	}
	e.maybe = h.guessed && h.base.Scheme == "https" && (c.opts.Insecure || loopback(h.base.Hostname()))
	e.plain = &watchdog{base: transport, timeout: c.opts.ProgressTimeout}
	e.client = &auth.Client{
		Client: &http.Client{
			Transport:     &retry.Transport{Base: e.plain, Policy: func() retry.Policy { return policy{c.opts.Backoff} }},
			CheckRedirect: e.checkRedirect,
		},
		Header:     http.Header{"User-Agent": {c.opts.UserAgent}},
		Cache:      c.cache,
		Credential: c.credentials(h, r),
		ClientID:   "vc-runtime",
	}
	return e, nil
}

// dialTimeout is for a connection, and for TLS on it.
const dialTimeout = 30 * time.Second

func loopback(name string) bool {
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

// maxRedirects is how many redirects are followed: a registry sends blobs from
// elsewhere, and that is one.
const maxRedirects = 5

// checkRedirect keeps what is for this host from others. The Authorization
// header is the auth client's affair, which drops it.
func (e *endpoint) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	first := via[0].URL
	if first.Scheme == "https" && req.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s", req.URL.Redacted())
	}
	if first.Host != req.URL.Host {
		for name := range e.header {
			req.Header.Del(name)
		}
	}
	return nil
}

// settle finds out whether a loopback registry speaks HTTPS or HTTP.
func (e *endpoint) settle(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.maybe {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.base.String()+"/", nil)
	if err != nil {
		return err
	}
	resp, err := e.plain.RoundTrip(req)
	switch {
	case err == nil:
		resp.Body.Close()
	case answersHTTP(err):
		e.base.Scheme = "http"
	default:
		return err
	}
	e.maybe = false
	return nil
}

// answersHTTP reports whether what should have been TLS was HTTP.
func answersHTTP(err error) bool {
	record, ok := errors.AsType[tls.RecordHeaderError](err)
	return ok && string(record.RecordHeader[:]) == "HTTP/"
}

// do sends one request for what the path below the repository names. An
// answer that is not among the expected ones is an error.
func (e *endpoint) do(ctx context.Context, method, path string, header http.Header, expected ...int) (*http.Response, error) {
	if err := e.settle(ctx); err != nil {
		return nil, err
	}
	u := *e.base
	u.Path = strings.TrimSuffix(u.Path, "/") + "/" + e.repository + "/" + path
	if e.namespace != "" {
		u.RawQuery = url.Values{"ns": {e.namespace}}.Encode()
	}
	ctx = auth.WithScopesForHost(ctx, u.Host, auth.ScopeRepository(e.repository, auth.ActionPull))
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range e.header {
		req.Header[name] = values
	}
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	for _, code := range expected {
		if resp.StatusCode == code {
			return resp, nil
		}
	}
	defer resp.Body.Close()
	return nil, statusError(resp)
}

// tlsConfig makes the settings for TLS of a host.
func (h *host) tlsConfig(insecure bool) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: insecure || h.skipVerify}
	for _, pair := range h.client {
		cert, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, err
		}
		c.Certificates = append(c.Certificates, cert)
	}
	if len(h.ca) == 0 {
		return c, nil
	}
	pool, err := certPool(h.ca)
	c.RootCAs = pool
	return c, err
}
