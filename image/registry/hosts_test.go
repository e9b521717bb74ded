package registry

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseHosts(t *testing.T) {
	hosts, err := parseHosts(`
server = "https://docker.io"
[host."https://one.example"]
  capabilities = ["pull"]
  ca = ["a.pem", "/b.pem"]
  client = [["c.pem", "k.pem"], ["both.pem"]]
  skip_verify = true
  dial_timeout = "5s"
  [host."https://one.example".header]
    x-a = "1"
    x-b = ["2", "3"]
[host."http://two.example:5000/mirror/v2"]
  override_path = true
[host."three.example"]
[host."https://push.example"]
  capabilities = ["push"]
`, "/d", "docker.io")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, h := range hosts {
		got = append(got, fmt.Sprintf("%s mirror=%v resolve=%v guessed=%v skip=%v ca=%v client=%v header=%v",
			h.base, h.mirror, h.resolve, h.guessed, h.skipVerify, h.ca, h.client, h.header))
	}
	want := []string{
		"https://one.example/v2 mirror=true resolve=false guessed=false skip=true ca=[/d/a.pem /b.pem] client=[[/d/c.pem /d/k.pem] [/d/both.pem /d/both.pem]] header=map[X-A:[1] X-B:[2 3]]",
		"http://two.example:5000/mirror/v2 mirror=true resolve=true guessed=false skip=false ca=[] client=[] header=map[]",
		"https://three.example/v2 mirror=true resolve=true guessed=true skip=false ca=[] client=[] header=map[]",
		"https://registry-1.docker.io/v2 mirror=false resolve=true guessed=false skip=false ca=[] client=[] header=map[]",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for text, want := range map[string]string{
		"servr = \"x\"":                         "unknown key servr",
		"[host.\"https://x\"]\ncapability = []": "unknown key host.",
		"server = \"ftp://x\"":                  "expected https://HOST",
		"server = \"https://u:p@x\"":            "expected https://HOST",
		"ca = 3":                                "ca = 3: expected a file",
		"client = [3]":                          "client = [3]: expected",
		"[header]\nx = 1":                       "header x = 1: expected",
		"[host.\"https://x\"]\ncapabilities = [\"fetch\"]": `"fetch": expected pull, resolve, push`,
		"[host": "expected",
	} {
		if _, err := parseHosts(text, "/d", "x"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
