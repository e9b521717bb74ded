package build

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// sample is one entry of each kind, with a folder that is left to be made.
func sample() []entry {
	return []entry{
		file("/init", 0o755, []byte("#!agent\n")),
		{name: "dev/console", mode: modeChar | 0o600, major: 5, minor: 1},
		dir("tmp", 0o1777),
		file("/etc/vc/empty", 0o644, nil),
		dir("dev", 0o755),
	}
}

func TestCPIOGolden(t *testing.T) {
	got, err := cpio(sample())
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "sample.cpio")
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("archive differs from %s:\n%q", golden, got)
	}
}

// The bytes must not depend on the order in which the builder adds entries.
func TestCPIOIgnoresOrder(t *testing.T) {
	a, err := cpio(sample())
	if err != nil {
		t.Fatal(err)
	}
	backward := sample()
	slices.Reverse(backward)
	b, err := cpio(backward)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the same entries in another order give other bytes")
	}
}

// Another program reads what we write.
func TestCPIOIsReadByCpio(t *testing.T) {
	tool, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("SKIPPED: no cpio on this machine")
	}
	raw, err := cpio(sample())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, "-tv", "--numeric-uid-gid", "--quiet")
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.Stdin = bytes.NewReader(raw)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cpio: %v: %s", err, out)
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
		"crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 etc",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 etc/vc",
		"-rw-r--r-- 1 0 0 0 Jan 1 1970 etc/vc/empty",
		"-rwxr-xr-x 1 0 0 8 Jan 1 1970 init",
		"drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
	}
	if !slices.Equal(got, want) {
		t.Errorf("cpio lists\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestCPIORefuses(t *testing.T) {
	for name, entries := range map[string][]entry{
		"the same name twice": {file("a", 0o644, nil), file("/a", 0o644, nil)},
		"a file as folder":    {file("a", 0o644, nil), file("a/b", 0o644, nil)},
		"a way out":           {file("../a", 0o644, nil)},
		"an unclean name":     {file("a//b", 0o644, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := cpio(entries); err == nil {
				t.Error("no error")
			}
		})
	}
}
