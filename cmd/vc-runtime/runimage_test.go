package main

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/vc-runtime/vc-runtime/virtcontainers/bundle"
)

// Whether run's argument is a container or an image decides whose flags are
// those after it.
func TestRunKeepsTheCommandOfAnImage(t *testing.T) {
	tests := map[string]struct {
		args  string
		here  bool // the current directory is a bundle
		want  string
		image bool
	}{
		"bundle named first":       {"run -b /b c1 --detach", false, "run -b /b --detach c1", false},
		"bundle named last":        {"run c1 -d --bundle /b", false, "run -d --bundle /b c1", false},
		"bundle with equals":       {"run c1 -d --bundle=/b", false, "run -d --bundle=/b c1", false},
		"bundle here":              {"run c1 -d", true, "run -d c1", false},
		"image":                    {"run -d debian", false, "run -d debian", true},
		"command's flags":          {"run -d debian ls -d /", false, "run -d debian ls -d /", true},
		"command's bundle flag":    {"run debian cmd --bundle x", false, "run debian cmd --bundle x", true},
		"entry point's flag":       {"run debian -d", false, "run debian -d", true},
		"image and a bundle's dir": {"run debian ls", true, "run debian ls", true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if tt.here {
				if err := os.WriteFile("config.json", nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			p := &program{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
			app := p.app()
			got := flagsFirst(app, append([]string{name}, strings.Fields(tt.args)...))[1:]
			if !slices.Equal(got, strings.Fields(tt.want)) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			var image bool
			app.Command("run").Action = func(c *cli.Context) error {
				image = fromImage(c)
				return nil
			}
			if err := app.Run(append([]string{name}, got...)); err != nil {
				t.Fatal(err)
			}
			if image != tt.image {
				t.Errorf("from an image: %v", image)
			}
		})
	}
}

func TestParseVolume(t *testing.T) {
	tests := map[string]bundle.Volume{
		"/a:/b":      {Source: "/a", Destination: "/b"},
		"/a:/b:ro":   {Source: "/a", Destination: "/b", ReadOnly: true},
		"/a:/b:rw,Z": {Source: "/a", Destination: "/b"},
	}
	for text, want := range tests {
		if got, err := parseVolume(text); err != nil || got != want {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "/a", "a:/b", "/a:b", "/a:/b:", "/a:/b:x", "/a:/b:ro:ro", "name:/b"} {
		if v, err := parseVolume(text); err == nil || !strings.Contains(err.Error(), "expected HOST-PATH:PATH") {
			t.Errorf("%q: got %+v, %v", text, v, err)
		}
	}
}

func TestUpperSize(t *testing.T) {
	for text, want := range map[string]int64{"": defaultUpper, "size=64m": 64 << 20, "size=2g": 2 << 30} {
		var options []string
		if text != "" {
			options = []string{text}
		}
		if got, err := upperSize(options); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"64m", "size=", "size=a", "space=1g"} {
		if n, err := upperSize([]string{text}); err == nil || !strings.Contains(err.Error(), "expected size=SIZE") {
			t.Errorf("%q: got %d, %v", text, n, err)
		}
	}
}

// Containers of two state stores may have one id, but share the image store.
func TestKeyOf(t *testing.T) {
	if got := keyOf(defaultRoot, "c"); got != "c" {
		t.Errorf("default root: %s", got)
	}
	a, b := keyOf("/run/a", "c"), keyOf("/run/b", "c")
	if a == b || a == "c" || !strings.HasPrefix(a, "c.") {
		t.Errorf("got %s and %s", a, b)
	}
}

func TestCodeOf(t *testing.T) {
	for text, want := range map[string]int{
		`exec: "x": executable file not found in $PATH`:  127,
		`exec: "/x": stat /x: no such file or directory`: 127,
		`exec: "/x": permission denied`:                  126,
		`image x: image does not exist`:                  125,
		`open /y: no such file or directory`:             125,
	} {
		if got := codeOf(errors.New(text)); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
}
