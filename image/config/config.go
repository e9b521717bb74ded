// Package config is the image service's own table of the configuration file,
// [image]: what may be set, and the defaults. The other tables are not its
// affair.
//
// What is unknown or wrong is an error that names file, key, value and what
// was expected.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/vc-runtime/vc-runtime/image/store"
)

// DefaultFile is read where no file is named; it need not exist.
const DefaultFile = "/etc/vc-runtime/config.toml"

const table = "image"

// Config is the table [image]. packaging/config.toml says what its keys are
// for.
type Config struct {
	Root                   string        // key root
	CertsDirs              []string      // certs_dirs
	AuthFile               string        // auth_file; "" is the usual places
	MaxConcurrentDownloads int           // max_concurrent_downloads
	MaxLayers              int           // max_layers
	ProgressTimeout        time.Duration // progress_timeout; 0 is off
	Platform               string        // platform, such as linux/amd64; "" is the host's
	Sync                   store.Sync    // sync
}

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		Root:                   store.DefaultRoot,
		CertsDirs:              []string{"/etc/vc-runtime/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"},
		MaxConcurrentDownloads: 3,
		MaxLayers:              15,
		ProgressTimeout:        5 * time.Minute,
		Sync:                   store.SyncFull,
	}
}

// HostPlatform is the platform of images that run here.
func HostPlatform() string { return "linux/" + runtime.GOARCH }

// value is where a key's value goes, and which values it takes.
type value struct {
	want string         // for the user
	set  func(any) bool // false for a value that is not wanted
}

func (c *Config) keys() map[string]value {
	return map[string]value{
		"root":                     {"an absolute path", path(&c.Root)},
		"certs_dirs":               {"an array of absolute paths", paths(&c.CertsDirs)},
		"auth_file":                {`an absolute path, or "" for the usual places`, orEmpty(&c.AuthFile, path(&c.AuthFile))},
		"max_concurrent_downloads": {"a number from 1 to 64", number(&c.MaxConcurrentDownloads, 1, 64)},
		"max_layers":               {"a number from 1 to 64", number(&c.MaxLayers, 1, 64)},
		"progress_timeout":         {`a time such as "5m", or "0s" for no limit`, duration(&c.ProgressTimeout)},
		"platform":                 {`a platform such as "linux/amd64", or "" for the host's`, orEmpty(&c.Platform, platform(&c.Platform))},
		"sync":                     {`"full" or "off"`, syncPolicy(&c.Sync)},
	}
}

// Load reads the table from the file at path over the defaults. With "" it
// reads DefaultFile, if there is one.
func Load(path string) (*Config, error) {
	named := path != ""
	if !named {
		path = DefaultFile
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return Default(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse reads the table from the text of a configuration file over the
// defaults.
func Parse(text string) (*Config, error) {
	var file map[string]any
	if _, err := toml.Decode(text, &file); err != nil {
		if p, ok := errors.AsType[toml.ParseError](err); ok {
			return nil, fmt.Errorf("line %d: %s", p.Position.Line, p.Message)
		}
		return nil, err
	}
	c := Default()
	if file[table] == nil {
		return c, nil
	}
	own, ok := file[table].(map[string]any)
	if !ok {
		return nil, fmt.Errorf("%s = %s: expected a table", table, show(file[table]))
	}
	known := c.keys()
	for _, name := range slices.Sorted(maps.Keys(own)) {
		v, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("unknown key %s: expected %s", toml.Key{table, name},
				strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if !v.set(own[name]) {
			return nil, fmt.Errorf("%s.%s = %s: expected %s", table, name, show(own[name]), v.want)
		}
	}
	return c, nil
}

// show makes one line of a value.
func show(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return strings.Join(strings.Fields(fmt.Sprint(v)), " ")
}

func path(p *string) func(any) bool {
	return func(v any) bool {
		s, ok := v.(string)
		*p = s
		return ok && filepath.IsAbs(s) && !strings.ContainsRune(s, 0) && filepath.Clean(s) != "/"
	}
}

func paths(list *[]string) func(any) bool {
	return func(v any) bool {
		items, ok := v.([]any)
		*list = make([]string, len(items))
		for i, item := range items {
			ok = path(&(*list)[i])(item) && ok
		}
		return ok
	}
}

func orEmpty(p *string, set func(any) bool) func(any) bool {
	return func(v any) bool {
		if v == "" {
			*p = ""
			return true
		}
		return set(v)
	}
}

func number(n *int, low, high int64) func(any) bool {
	return func(v any) bool {
		i, ok := v.(int64)
		*n = int(i)
		return ok && low <= i && i <= high
	}
}

func duration(d *time.Duration) func(any) bool {
	return func(v any) bool {
		s, ok := v.(string)
		got, err := time.ParseDuration(s)
		*d = got
		return ok && err == nil && got >= 0
	}
}

func platform(p *string) func(any) bool {
	return func(v any) bool {
		s, ok := v.(string)
		*p = s
		return ok && ValidPlatform(s)
	}
}

// ValidPlatform reports whether a text is a platform: os/architecture, and a
// variant where there is one.
func ValidPlatform(s string) bool {
	parts := strings.Split(s, "/")
	return (len(parts) == 2 || len(parts) == 3) && !slices.Contains(parts, "") &&
		strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789/._-") == ""
}

func syncPolicy(p *store.Sync) func(any) bool {
	return func(v any) bool {
		s, ok := v.(string)
		*p = store.Sync(s)
		return ok && (*p == store.SyncFull || *p == store.SyncOff)
	}
}
