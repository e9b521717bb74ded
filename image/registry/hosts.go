package registry

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// dockerHub is where docker.io is.
const dockerHub = "registry-1.docker.io"

// host is a place to fetch from.
type host struct {
	base       *url.URL // with /v2, or whatever override_path leaves
	resolve    bool     // may say what a tag stands for
	mirror     bool     // is not the registry itself
	pushOnly   bool     // nothing for us
	guessed    bool     // the scheme is not the user's
	ca         []string // files
	client     [][2]string
	skipVerify bool
	header     http.Header
}

// findHosts reads how a registry is to be reached: mirrors in the order of the
// file, then itself. The file is containerd's hosts.toml; where a folder has
// none, its certificates are taken as docker does.
func findHosts(dirs []string, registry string) ([]host, error) {
	for _, dir := range dirs {
		for _, name := range []string{registry, strings.ReplaceAll(registry, ":", "_"), "_default"} {
			found := filepath.Join(dir, name)
			info, err := os.Stat(found)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			if info.IsDir() {
				return readHosts(found, registry)
			}
		}
	}
	h, err := itself(registry)
	return []host{h}, err
}

// itself is the registry without any configuration.
func itself(registry string) (host, error) {
	name := registry
	if name == "docker.io" {
		name = dockerHub
	}
	base, err := url.Parse("https://" + name + "/v2")
	return host{base: base, resolve: true, guessed: true}, err
}

func readHosts(dir, registry string) ([]host, error) {
	path := filepath.Join(dir, "hosts.toml")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		h, err := itself(registry)
		if err != nil {
			return nil, err
		}
		return []host{h}, h.dockerCerts(dir)
	}
	if err != nil {
		return nil, err
	}
	hosts, err := parseHosts(string(text), dir, registry)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return hosts, nil
}

// dockerCerts takes NAME.crt as authorities, and NAME.cert with NAME.key as our
// own certificate.
func (h *host) dockerCerts(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			h.ca = append(h.ca, path)
		case ".cert":
			h.client = append(h.client, [2]string{path, strings.TrimSuffix(path, ".cert") + ".key"})
		}
	}
	return nil
}

// hostFile is one host of a hosts.toml, or the file's top, which is of the
// registry itself.
type hostFile struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file, or several
	Client       any            `toml:"client"` // a file, several, or pairs
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // text, or several
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"` // has no effect
}

type hostsFile struct {
	hostFile
	Server string              `toml:"server"`
	Host   map[string]hostFile `toml:"host"`
}

func parseHosts(text, dir, registry string) ([]host, error) {
	var file hostsFile
	meta, err := toml.Decode(text, &file)
	if err != nil {
		return nil, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return nil, fmt.Errorf("unknown key %s", unknown[0])
	}
	var hosts []host
	for _, key := range meta.Keys() {
		if len(key) != 2 || key[0] != "host" || meta.Type(key...) != "Hash" {
			continue
		}
		h, err := file.Host[key[1]].host(key[1], dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", key[1], err)
		}
		h.mirror = true
		hosts = append(hosts, h)
	}
	own, err := itself(registry)
	if err != nil {
		return nil, err
	}
	if file.Server != "" {
		if own, err = file.host(file.Server, dir); err != nil {
			return nil, fmt.Errorf("server %q: %w", file.Server, err)
		}
	} else if err := own.set(&file.hostFile, dir); err != nil {
		return nil, err
	}
	own.resolve = true
	hosts = slices.DeleteFunc(hosts, func(h host) bool { return h.pushOnly })
	return append(hosts, own), nil
}

// host makes a host of its table.
func (f hostFile) host(address, dir string) (host, error) {
	guessed := !strings.Contains(address, "://")
	if guessed {
		address = "https://" + address
	}
	base, err := url.Parse(address)
	if err != nil {
		return host{}, err
	}
	if base.Scheme != "https" && base.Scheme != "http" || base.Host == "" || base.RawQuery != "" || base.User != nil {
		return host{}, errors.New("expected https://HOST[:PORT][/PATH], or http")
	}
	if base.Host == "docker.io" {
		base.Host = dockerHub
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	if !f.OverridePath && !strings.HasSuffix(base.Path, "/v2") {
		base.Path += "/v2"
	}
	h := host{base: base, guessed: guessed}
	return h, h.set(&f, dir)
}

// set applies the keys of a table. Paths are relative to the file's folder.
func (h *host) set(f *hostFile, dir string) error {
	h.resolve = f.Capabilities == nil || slices.Contains(f.Capabilities, "resolve")
	for _, c := range f.Capabilities {
		if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, c) {
			return fmt.Errorf("capabilities: %q: expected pull, resolve, push or referrers", c)
		}
	}
	h.pushOnly = f.Capabilities != nil && !slices.Contains(f.Capabilities, "pull")
	h.skipVerify = f.SkipVerify != nil && *f.SkipVerify
	abs := func(path string) string {
		if filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	files, ok := texts(f.CA)
	if !ok {
		return fmt.Errorf("ca = %v: expected a file, or an array of files", f.CA)
	}
	for _, file := range files {
		h.ca = append(h.ca, abs(file))
	}
	pairs, ok := certPairs(f.Client)
	if !ok {
		return fmt.Errorf("client = %v: expected a file, an array of files, or of [certificate, key]", f.Client)
	}
	for _, pair := range pairs {
		h.client = append(h.client, [2]string{abs(pair[0]), abs(pair[1])})
	}
	for name, v := range f.Header {
		values, ok := texts(v)
		if !ok {
			return fmt.Errorf("header %s = %v: expected a text, or an array of texts", name, v)
		}
		if h.header == nil {
			h.header = http.Header{}
		}
		h.header[http.CanonicalHeaderKey(name)] = values
	}
	return nil
}

// texts reads a text, or an array of them; nil is none.
func texts(v any) (list []string, ok bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		for _, item := range v {
			s, isText := item.(string)
			if !isText {
				return nil, false
			}
			list = append(list, s)
		}
		return list, true
	}
	return nil, false
}

// certPairs reads certificates with their keys, which may be in the same file.
func certPairs(v any) (pairs [][2]string, ok bool) {
	if list, isArray := v.([]any); isArray {
		for _, item := range list {
			files, ok := texts(item)
			switch {
			case ok && len(files) == 1:
				pairs = append(pairs, [2]string{files[0], files[0]})
			case ok && len(files) == 2:
				pairs = append(pairs, [2]string{files[0], files[1]})
			default:
				return nil, false
			}
		}
		return pairs, true
	}
	files, ok := texts(v)
	for _, file := range files {
		pairs = append(pairs, [2]string{file, file})
	}
	return pairs, ok
}

// certPool has the system's authorities and those of the files.
func certPool(files []string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s: no certificate in PEM form", file)
		}
	}
	return pool, nil
}
