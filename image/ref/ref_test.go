package ref

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sum = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]struct{ whole, familiar string }{
		"debian":                          {"docker.io/library/debian:latest", "debian:latest"},
		"debian:12":                       {"docker.io/library/debian:12", "debian:12"},
		"docker://debian":                 {"docker.io/library/debian:latest", "debian:latest"},
		"some/one":                        {"docker.io/some/one:latest", "some/one:latest"},
		"index.docker.io/library/debian":  {"docker.io/library/debian:latest", "debian:latest"},
		"localhost/x":                     {"localhost/x:latest", ""},
		"127.0.0.1:5000/x:y":              {"127.0.0.1:5000/x:y", ""},
		"[::1]:5000/x":                    {"[::1]:5000/x:latest", ""},
		"reg.example/a/b/c":               {"reg.example/a/b/c:latest", ""},
		"debian@" + sum:                   {"docker.io/library/debian@" + sum, "debian@" + sum},
		"debian:12@" + sum:                {"docker.io/library/debian@" + sum, "debian@" + sum},
		"oci:/a/b":                        {"oci:/a/b", ""},
		"oci:/a/b:tag":                    {"oci:/a/b:tag", ""},
		"oci:b/../c:1.0":                  {"oci:" + filepath.Join(here, "c") + ":1.0", ""},
		"oci:/a:b/c":                      {"oci:/a:b/c", ""},
		"oci-archive:/a/b.tar":            {"oci-archive:/a/b.tar", ""},
		"oci-archive:/a/b.tar:x":          {"oci-archive:/a/b.tar:x", ""},
		"docker-archive:/a/b.tar":         {"docker-archive:/a/b.tar", ""},
		"docker-archive:/a/b.tar:debian":  {"docker-archive:/a/b.tar:docker.io/library/debian:latest", ""},
		"docker-archive:/b:h.example/x:2": {"docker-archive:/b:h.example/x:2", ""},
	} {
		r, err := Parse(text)
		if err != nil || r.String() != want.whole {
			t.Errorf("%s: %q, %v; want %q", text, r, err, want.whole)
			continue
		}
		if want.familiar != "" && r.Familiar() != want.familiar {
			t.Errorf("%s: familiar %q, want %q", text, r.Familiar(), want.familiar)
		}
		if back, err := Parse(r.String()); err != nil || back != r {
			t.Errorf("%s: read again it is %+v, %v; want %+v", text, back, err, r)
		}
	}
	for _, text := range []string{
		"", ":", "Debian", "a b", "a:b:c", "../x", "a//b", "x@sha256:12", "x@md5:0123456789abcdef0123456789abcdef",
		"oci:", "oci::tag", "oci:/a:b c", "oci-archive:", "docker-archive:/x:UPPER", "x\ny", strings.Repeat("a", 300),
		"x@sha512:" + strings.Repeat("0", 128), sum[7:],
	} {
		if r, err := Parse(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q gives %+v, %v", text, r, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"debian:12", "oci:/x:y", "docker-archive:x:y/z:1", "a.b:1/c@" + sum, "docker://x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Parse(text)
		if err != nil {
			return
		}
		if back, err := Parse(r.String()); err != nil || back != r {
			t.Errorf("%q is %+v, and read again %+v, %v", text, r, back, err)
		}
	})
}
