// Package conformance runs OCI's validation programs
// (github.com/opencontainers/runtime-tools, validation) against runc and
// vc-runtime. A check that passes with runc must pass with vc-runtime, or be in
// docs/conformance.md with the reason; a check that is there and passes is an
// error too.
//
// `make conformance` builds the programs and runs this with VC_CONFORMANCE, the
// folder that they are in. With VC_CONFORMANCE_WRITE the table of results in
// docs/conformance.md is written anew.
package conformance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("VC_CONFORMANCE") == "" {
		fmt.Fprintln(os.Stderr, "SKIPPED: OCI's validation programs are run by `make conformance`")
		os.Exit(0)
	}
	os.Exit(testenv.Main(m, &suite, nil))
}

// programLimit is how long one program may take.
const programLimit = 10 * time.Minute

// result is what a program says of a runtime (testanything.org).
type result struct {
	passed, failed map[string]int // checks by their description
	skipped        int
	code           int
}

func parse(out string, code int) *result {
	r := &result{passed: make(map[string]int), failed: make(map[string]int), code: code}
	for line := range strings.Lines(out) {
		line = strings.TrimRight(line, "\n")
		what, ok := strings.CutPrefix(line, "ok ")
		list := r.passed
		if !ok {
			if what, ok = strings.CutPrefix(line, "not ok "); !ok {
				continue
			}
			list = r.failed
		}
		what = strings.TrimLeft(what, "0123456789 ")
		what = strings.TrimSpace(strings.TrimPrefix(what, "- "))
		if strings.HasPrefix(what, "# SKIP") {
			r.skipped++
			continue
		}
		list[what]++
	}
	return r
}

// says puts a result into a word or two.
func (r *result) says() string {
	count := func(m map[string]int) (n int) {
		for _, k := range m {
			n += k
		}
		return n
	}
	ok, bad := count(r.passed), count(r.failed)
	switch {
	case ok+bad == 0 && r.skipped > 0:
		return "skipped"
	case ok+bad == 0 && r.code == 0:
		return "no checks"
	case ok+bad == 0:
		return "error"
	case r.code != 0:
		return fmt.Sprintf("%d of %d, then error", ok, ok+bad)
	case bad == 0:
		return fmt.Sprintf("pass (%d)", ok)
	}
	return fmt.Sprintf("%d of %d", ok, ok+bad)
}

// lacks gives the checks that pass in the other one only. A program that ends
// early counts as a check of its own.
func (r *result) lacks(other *result) []string {
	var list []string
	for what, n := range other.passed {
		if r.passed[what] < n {
			list = append(list, what)
		}
	}
	if other.code == 0 && r.code != 0 {
		list = append(list, "the program ends well")
	}
	slices.Sort(list)
	return list
}

type subject struct {
	*testenv.Env
	files   string // folder of what programs want to find beside them
	name    string
	command string // a script that runs the runtime with its global flags
}

func newSubject(e *testenv.Env, runtime, files string) *subject {
	other := *e
	other.Suite = e.Beside(runtime)
	s := &subject{Env: &other, name: filepath.Base(runtime), files: files}
	other.Root = e.Path("root." + s.name)
	// What is tested is not how fast this machine is.
	other.Config = e.Configured(testenv.Settings{
		"runtime.create_timeout": `"10m"`, "runtime.call_timeout": `"10m"`, "hypervisor.boot_timeout": `"10m"`,
	}).Config
	s.command = e.Write(s.name, fmt.Sprintf("#!/bin/sh\nexec %s %s \"$@\"\n", runtime, strings.Join(s.Globals(), " ")))
	if err := os.Chmod(s.command, 0o755); err != nil {
		e.Fatal(err)
	}
	return s
}

// run runs a program with one runtime.
func (s *subject) run(t *testing.T, programs, name string) *result {
	t.Helper()
	dir := s.Path(name + "." + s.name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range besides { // no symlink: the programs would copy that as it is
		if err := os.Link(filepath.Join(s.files, file), filepath.Join(dir, file)); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"RUNTIME=" + s.command, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir}
	// In a mount namespace of its own: runc leaves mounts behind where a
	// program asks for a container without one.
	script := "cd " + dir + " && exec " + filepath.Join(programs, name)
	res, err := s.Exec(testenv.Command{
		Path: testenv.Tool(t, "unshare"), Args: []string{"--mount", "--propagation", "slave", "/bin/sh", "-c", script},
		Env: env, Limit: programLimit,
	})
	if err != nil {
		t.Errorf("%s: %v", s.name, err)
		return parse("", 1)
	}
	if os.Getenv("VC_CONFORMANCE_SHOW") != "" {
		t.Logf("%s: %s", s.name, res)
	}
	return parse(res.Stdout, res.Code)
}

// clean deletes what programs have left, which several do.
func (s *subject) clean() {
	for _, dir := range []string{s.Root, filepath.Join(s.Root, "containers")} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if _, err := os.Stat(filepath.Join(dir, e.Name(), "state.json")); err == nil {
				s.Do("delete", "--force", e.Name())
			}
		}
	}
}

// besides are the files that programs want in their working folder.
var besides = []string{"runtimetest", "rootfs-amd64.tar.gz"}

func copyFiles(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range besides {
		b, err := os.ReadFile(filepath.Join(from, file))
		if err == nil {
			err = os.WriteFile(filepath.Join(to, file), b, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestConformance(t *testing.T) {
	programs := os.Getenv("VC_CONFORMANCE")
	entries, err := os.ReadDir(programs)
	if err != nil {
		t.Fatal(err)
	}
	doc := readDocument(t)
	e := suite.New(t)
	files := e.Path("files")
	copyFiles(t, programs, files)
	runc, ours := newSubject(e, testenv.Tool(t, "runc"), files), newSubject(e, suite.Runtime, files)
	defer ours.clean()
	defer runc.clean()
	var mu sync.Mutex // guards doc
	t.Run("programs", func(t *testing.T) {
		for _, entry := range entries {
			name := entry.Name()
			if slices.Contains(besides, name) {
				continue
			}
			t.Run(name, func(t *testing.T) {
				// These use one cgroup, of a name that they all know.
				if !strings.HasPrefix(name, "linux_cgroups_") && !strings.HasPrefix(name, "delete_") {
					t.Parallel()
				}
				want := runc.run(t, programs, name)
				got := ours.run(t, programs, name)
				mu.Lock()
				defer mu.Unlock()
				doc.add(t, name, want, got)
			})
		}
	})
	doc.finish(t, len(entries)-len(besides))
}
