package testenv

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Settings are keys of the runtime's configuration: "table.key" to a value in
// TOML's notation.
type Settings map[string]string

// WriteConfig writes a configuration into the test's folder and gives its
// path. The settings go over the suite's own.
func (e *Env) WriteConfig(name string, over Settings) string {
	e.Helper()
	s := e.Settings()
	maps.Copy(s, over)
	return e.Write(name, s.TOML())
}

// Settings are those that the suite itself needs.
func (s *Suite) Settings() Settings {
	return Settings{
		"hypervisor.guest_image": fmt.Sprintf("%q", s.Guest),
		"hypervisor.accel":       `"auto"`,
		"hypervisor.cache_dir":   fmt.Sprintf("%q", filepath.Join(s.Dir, "cache")),
	}
}

// TOML writes the settings by table, in order.
func (s Settings) TOML() string {
	var b strings.Builder
	table := ""
	for _, key := range slices.Sorted(maps.Keys(s)) {
		t, k, _ := strings.Cut(key, ".")
		if t != table {
			fmt.Fprintf(&b, "[%s]\n", t)
			table = t
		}
		fmt.Fprintf(&b, "%s = %s\n", k, s[key])
	}
	return b.String()
}

// Configured is the same surroundings with settings of their own.
func (e *Env) Configured(over Settings) *Env {
	e.Helper()
	f, err := os.CreateTemp(e.Dir, "config-*.toml")
	if err != nil {
		e.Fatal(err)
	}
	f.Close()
	other := *e
	other.Config = e.WriteConfig(strings.TrimPrefix(f.Name(), e.Dir+"/"), over)
	return &other
}
