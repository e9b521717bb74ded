package build

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// apt fetches Debian packages with a configuration, package lists and a cache
// of its own: the host's are neither changed nor asked for source packages,
// and it takes no root. What apt fetches, it has checked with the archive's
// signatures.
type apt struct {
	dir string // holds all of the above
}

// openApt writes the configuration into dir and fetches the package lists.
func openApt(ctx context.Context, dir string) (*apt, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	a := &apt{dir: dir}
	codename, err := debianCodename("/etc/os-release")
	if err != nil {
		return nil, err
	}
	sources, err := debianSources("/etc/apt", codename)
	if err != nil {
		return nil, err
	}
	var stanzas []string
	for _, s := range sources {
		stanzas = append(stanzas, s.stanza())
	}
	for _, sub := range []string{"sources.list.d", "lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	text := strings.Join(stanzas, "\n")
	if err := os.WriteFile(filepath.Join(dir, "sources.list.d", "debian.sources"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	host, err := command{args: []string{"apt-config", "dump"}}.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(a.conf(), []byte(aptConf(dir, string(host))), 0o644); err != nil {
		return nil, err
	}
	_, err = a.run(ctx, "", "apt-get", "-q", "update", "--error-on=any")
	return a, err
}

func (a *apt) conf() string { return filepath.Join(a.dir, "apt.conf") }

// run runs one of apt's tools with the private configuration.
func (a *apt) run(ctx context.Context, dir string, args ...string) ([]byte, error) {
	return command{args: args, dir: dir, env: []string{"APT_CONFIG=" + a.conf()}}.run(ctx)
}

// aptConf is an apt.conf for the private folders. Of the host's configuration
// it takes how to reach the archives: proxies, time limits, a snapshot's
// exemption from expiry.
func aptConf(dir, hostDump string) string {
	var b strings.Builder
	for line := range strings.Lines(hostDump) {
		for _, prefix := range []string{"Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-Valid-Until"} {
			if strings.HasPrefix(line, prefix+":") || strings.HasPrefix(line, prefix+" ") {
				b.WriteString(line)
			}
		}
	}
	for _, s := range [][2]string{
		{"Dir::Etc::main", "/dev/null"},
		{"Dir::Etc::parts", "/dev/null"},
		{"Dir::Etc::sourcelist", "/dev/null"},
		{"Dir::Etc::sourceparts", filepath.Join(dir, "sources.list.d")},
		{"Dir::Etc::preferences", "/dev/null"},
		{"Dir::Etc::preferencesparts", "/dev/null"},
		{"Dir::State::lists", filepath.Join(dir, "lists")},
		{"Dir::State::status", "/dev/null"},
		{"Dir::Cache", filepath.Join(dir, "cache")},
		{"APT::Architecture", architecture},
		{"APT::Architectures", architecture},
		{"APT::Sandbox::User", "root"}, // the folders need not be open to _apt
		{"Acquire::Languages", "none"},
		{"Acquire::GzipIndexes", "true"}, // 107 MB of lists become 20
	} {
		fmt.Fprintf(&b, "%s %q;\n", s[0], s[1])
	}
	return b.String()
}

// dependency gives the dependency of a package whose name starts with prefix,
// as "name=version": that of a metapackage on the thing itself.
func (a *apt) dependency(ctx context.Context, pkg, prefix string) (string, error) {
	out, err := a.run(ctx, "", "apt-cache", "show", "--no-all-versions", pkg)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(out)) {
		list, ok := strings.CutPrefix(line, "Depends: ")
		if !ok {
			continue
		}
		for dep := range strings.SplitSeq(list, ",") {
			name, version, _ := strings.Cut(strings.TrimSpace(dep), " ")
			version, exact := strings.CutPrefix(version, "(= ")
			if exact && strings.HasPrefix(name, prefix) {
				return name + "=" + strings.TrimSuffix(version, ")"), nil
			}
		}
	}
	return "", fmt.Errorf("package %s: no dependency on an exact version of %s*", pkg, prefix)
}

// download fetches a package ("name=version") into dir, which should be empty
// but for that, and gives the path of the .deb.
func (a *apt) download(ctx context.Context, pkg, dir string) (string, error) {
	if _, err := a.run(ctx, dir, "apt-get", "-q", "download", pkg); err != nil {
		return "", err
	}
	return only(dir, "*.deb")
}

// source fetches a source package into dir, and gives the path of the .dsc.
func (a *apt) source(ctx context.Context, pkg, dir string) (string, error) {
	if _, err := a.run(ctx, dir, "apt-get", "-q", "source", "--download-only", pkg); err != nil {
		return "", err
	}
	return only(dir, "*.dsc")
}

// only finds the one file of a pattern in dir.
func only(dir, pattern string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return "", err
	}
	if len(found) != 1 {
		return "", fmt.Errorf("%s: %d files match %q, want one", dir, len(found), pattern)
	}
	return found[0], nil
}

// debianCodename reads the release's name, such as "bookworm".
func debianCodename(osRelease string) (string, error) {
	raw, err := os.ReadFile(osRelease)
	if err != nil {
		return "", err
	}
	values := map[string]string{}
	for line := range strings.Lines(string(raw)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = strings.Trim(value, `"'`)
	}
	if values["ID"] != "debian" || values["VERSION_CODENAME"] == "" {
		return "", fmt.Errorf("%s: a guest image is built on a release of Debian, this is %q", osRelease, values["PRETTY_NAME"])
	}
	return values["VERSION_CODENAME"], nil
}
