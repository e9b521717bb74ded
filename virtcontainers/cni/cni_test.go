package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParsePort(t *testing.T) {
	tests := map[string]Port{
		"80":                 {"", 80, 80, "tcp"},
		"8080:80":            {"", 8080, 80, "tcp"},
		"8080:80/udp":        {"", 8080, 80, "udp"},
		"127.0.0.1:8080:80":  {"127.0.0.1", 8080, 80, "tcp"},
		"[::1]:8080:80/sctp": {"::1", 8080, 80, "sctp"},
	}
	for text, want := range tests {
		got, err := ParsePort(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	for _, text := range []string{"", "0", "65536", "80:", ":80", "a:80", "80/icmp", "80/", "::1:8080:80", "[127.0.0.1]:1:2", "1.2.3:1:2", "+1", "-1"} {
		if p, err := ParsePort(text); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: got %+v, %v", text, p, err)
		}
	}
}

func TestFind(t *testing.T) {
	dirs := Dirs{Config: t.TempDir()}
	if _, err := Find(dirs, ""); !errors.Is(err, ErrNone) {
		t.Errorf("nothing configured: %v", err)
	}
	for file, text := range map[string]string{
		"20-b.conflist": `{"cniVersion":"0.4.0","name":"b","plugins":[{"type":"bridge"}]}`,
		"10-a.conf":     `{"cniVersion":"0.4.0","name":"a","type":"bridge"}`,
	} {
		if err := os.WriteFile(filepath.Join(dirs.Config, file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"": "a", "b": "b"} {
		n, err := Find(dirs, name)
		if err != nil || n.Name != want {
			t.Errorf("network %q: %+v, %v", name, n, err)
		}
	}
	if _, err := Find(dirs, "c"); err == nil || !strings.Contains(err.Error(), "expected a, b, none") {
		t.Errorf("unknown network: %v", err)
	}
}

// A plugin gets what the specification says, and Leave works from what was
// written down, with the namespace and the configuration gone.
func TestJoinAndLeave(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	plugin := fmt.Sprintf(`#!/bin/sh
conf=$(cat)
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.4.0"]}'; exit;;
ADD) echo '{"cniVersion":"0.4.0","interfaces":[],"ips":[]}';;
esac
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $conf" >>%s
`, log)
	if err := os.WriteFile(filepath.Join(dir, "fake"), []byte(plugin), 0o755); err != nil {
		t.Fatal(err)
	}
	n := &Network{
		Name: "a", Plugins: []string{dir}, Container: "c1", Cache: filepath.Join(dir, "cache"),
		Config: json.RawMessage(`{"cniVersion":"0.4.0","name":"a","plugins":[{"type":"fake","capabilities":{"portMappings":true}}]}`),
		Ports:  []Port{{HostPort: 8080, ContainerPort: 80, Protocol: "tcp"}},
	}
	if err := n.Join(t.Context(), "/proc/1/ns/net"); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var later Network
	if err := json.Unmarshal(text, &later); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := later.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "ADD c1 /proc/1/ns/net eth0 ") || !strings.Contains(lines[0], `"hostPort":8080`) ||
		!strings.HasPrefix(lines[1], "DEL c1  eth0 ") || !strings.HasPrefix(lines[2], "DEL c1  eth0 ") {
		t.Errorf("calls of the plugin: %s", b)
	}
}

func TestPortsNeedACapability(t *testing.T) {
	n := &Network{
		Name: "a", Config: json.RawMessage(`{"cniVersion":"0.4.0","name":"a","plugins":[{"type":"fake"}]}`),
		Ports: []Port{{HostPort: 1, ContainerPort: 1, Protocol: "tcp"}},
	}
	if err := n.Join(t.Context(), "/x"); err == nil || !strings.Contains(err.Error(), "cannot publish ports") {
		t.Errorf("got %v", err)
	}
}
