package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const oneLineSources = `# a comment
deb http://deb.debian.org/debian bookworm main contrib # and more
deb-src http://deb.debian.org/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://security.debian.org/debian-security bookworm-security main
deb https://download.docker.com/linux/debian bookworm stable
deb http://deb.debian.org/debian trixie main
deb
`

const stanzaSources = `Types: deb
# where from
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
Components: main


Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: mirror+file:/etc/apt/mirrors/security.list
Suites: bookworm-security
Components: main
`

func TestDebianSources(t *testing.T) {
	etc := t.TempDir()
	for name, text := range map[string]string{
		"sources.list":                  oneLineSources,
		"sources.list.d/debian.sources": stanzaSources,
		"sources.list.d/old.list.save":  oneLineSources, // apt skips it
	} {
		path := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	found, err := debianSources(etc, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range found {
		got = append(got, s.stanza())
	}
	want := []string{
		"Types: deb deb-src\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n",
		"Types: deb deb-src\nURIs: http://security.debian.org/debian-security\nSuites: bookworm-security\nComponents: main\nSigned-By: /k.gpg\n",
		"Types: deb deb-src\nURIs: http://deb.debian.org/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
		"Types: deb deb-src\nURIs: mirror+file:/etc/apt/mirrors/security.list\nSuites: bookworm-security\nComponents: main\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sources (-want +got):\n%s", diff)
	}
}

func TestDebianSourcesNone(t *testing.T) {
	if _, err := debianSources(t.TempDir(), "bookworm"); err == nil {
		t.Error("no error without any source")
	}
}

// The host's proxy is kept, its hooks are not: they may clean the host's own
// cache.
func TestAptConf(t *testing.T) {
	host := `APT::Update::Post-Invoke:: "rm -f /var/cache/apt/archives/*.deb";
Acquire::http "";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::httpfoo "x";
Dir::Cache "var/cache/apt";
`
	got := aptConf("/private", host)
	if !strings.HasPrefix(got, "Acquire::http \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\nDir::Etc::main \"/dev/null\";\n") {
		t.Errorf("aptConf begins otherwise:\n%s", got)
	}
	if strings.Contains(got, "Invoke") || strings.Contains(got, "httpfoo") || strings.Contains(got, `"var/cache/apt"`) {
		t.Errorf("aptConf took more of the host's than the proxy:\n%s", got)
	}
}

func TestDebianCodename(t *testing.T) {
	tests := []struct{ text, want, err string }{
		{text: "ID=debian\nVERSION_CODENAME=bookworm\n", want: "bookworm"},
		{text: "PRETTY_NAME=\"Ubuntu 24.04\"\nID=ubuntu\nVERSION_CODENAME=noble\n", err: `this is "Ubuntu 24.04"`},
		{text: "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux forky/sid\"\n", err: "forky/sid"},
	}
	for _, tc := range tests {
		path := filepath.Join(t.TempDir(), "os-release")
		if err := os.WriteFile(path, []byte(tc.text), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := debianCodename(path)
		if got != tc.want {
			t.Errorf("debianCodename(%q) = %q, want %q", tc.text, got, tc.want)
		}
		if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("debianCodename(%q): %v, want %q", tc.text, err, tc.err)
		}
	}
}
