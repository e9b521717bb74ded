package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/stats"
)

// fake is a runtime that writes down how it is called.
type fake struct {
	orphans []virtcontainers.Orphan
	calls   []any

	err       error // of every call
	code      int   // of Run and Exec
	process   *specs.Process
	state     *virtcontainers.State
	states    []virtcontainers.State
	processes []int
	stdin     *os.File // of the program; nil: an empty file
}

// The calls with more than one argument.
type (
	killCall struct {
		ID     string
		Signal unix.Signal
		All    bool
	}
	deleteCall struct {
		ID    string
		Force bool
	}
	idCall     struct{ Verb, ID string }
	updateCall struct{ ID, Resources string }
	eventsCall struct {
		ID       string
		Interval time.Duration
	}
)

func (f *fake) note(call any) error {
	f.calls = append(f.calls, call)
	return f.err
}

func (f *fake) Create(_ context.Context, o virtcontainers.CreateOptions) error {
	o.Stdin, o.Stdout, o.Stderr = nil, nil, nil
	return f.note(o)
}

func (f *fake) Run(_ context.Context, o virtcontainers.RunOptions) (int, error) {
	o.Stdin, o.Stdout, o.Stderr = nil, nil, nil
	return f.code, f.note(o)
}

func (f *fake) Exec(_ context.Context, o virtcontainers.ExecOptions) (int, error) {
	o.Stdin, o.Stdout, o.Stderr = nil, nil, nil
	return f.code, f.note(o)
}

func (f *fake) Spares() ([]virtcontainers.Spare, error) { return nil, f.err }

func (f *fake) FillSpares(context.Context) error { return f.err }

func (f *fake) EndSpares(context.Context) error { return f.err }

func (f *fake) Doctor(_ context.Context, fix bool) ([]virtcontainers.Orphan, error) {
	return f.orphans, f.note(fix)
}

func (f *fake) Kill(_ context.Context, id string, s unix.Signal, all bool) error {
	return f.note(killCall{id, s, all})
}

func (f *fake) Delete(_ context.Context, id string, force bool) error {
	return f.note(deleteCall{id, force})
}

func (f *fake) Start(_ context.Context, id string) error  { return f.note(idCall{"start", id}) }
func (f *fake) Pause(_ context.Context, id string) error  { return f.note(idCall{"pause", id}) }
func (f *fake) Resume(_ context.Context, id string) error { return f.note(idCall{"resume", id}) }

func (f *fake) State(_ context.Context, id string) (*virtcontainers.State, error) {
	return f.state, f.note(idCall{"state", id})
}

func (f *fake) List(context.Context) ([]virtcontainers.State, error) {
	return f.states, f.note(idCall{"list", ""})
}

func (f *fake) Processes(_ context.Context, id string) ([]int, error) {
	return f.processes, f.note(idCall{"ps", id})
}

func (f *fake) Update(_ context.Context, id string, resources []byte) error {
	return f.note(updateCall{id, string(resources)})
}

func (f *fake) Stats(_ context.Context, id string) (*stats.Stats, error) {
	return &stats.Stats{}, f.note(idCall{"stats", id})
}

func (f *fake) Events(_ context.Context, id string, interval time.Duration, each func(stats.Event) error) error {
	return errors.Join(f.note(eventsCall{id, interval}), each(stats.Event{Type: "oom", ID: id}))
}

// Process is not noted: it only reads, for exec.
func (f *fake) Process(context.Context, string) (*specs.Process, error) {
	if f.process == nil {
		return new(specs.Process), f.err
	}
	copied := *f.process
	return &copied, f.err
}

// outcome is what a run of the program has left.
type outcome struct {
	code           int
	stdout, stderr string
	settings       settings
}

// execute runs the program with rt behind it, as root.
func execute(t *testing.T, rt *fake, args ...string) outcome {
	t.Helper()
	return executeAs(t, 0, rt, args...)
}

func executeAs(t *testing.T, euid int, rt *fake, args ...string) outcome {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	var out outcome
	p := &program{stdin: file("stdin"), stdout: file("stdout"), stderr: file("stderr"), euid: euid}
	if rt.stdin != nil {
		p.stdin = rt.stdin
	}
	p.open = func(_ *program, s settings) (verbs, error) {
		out.settings = s
		return rt, nil
	}
	out.code = p.run(append([]string{"vc-runtime"}, args...))
	out.stdout, out.stderr = read(t, p.stdout.Name()), read(t, p.stderr.Name())
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestVersion(t *testing.T) {
	// docker, podman and CRI-O read these lines; anything on stderr would be
	// taken for a part of them.
	shape := regexp.MustCompile(`\Avc-runtime version \S+\ncommit: \S+\nspec: 1\.\d+\.\d+\S*\ngo: go\S+\n\z`)
	for _, flag := range []string{"--version", "-v"} {
		out := executeAs(t, 1000, &fake{}, flag)
		if out.code != 0 || out.stderr != "" || !shape.MatchString(out.stdout) {
			t.Errorf("%s: %+v", flag, out)
		}
	}
	if !strings.Contains(versionText(), "go: "+runtime.Version()) {
		t.Errorf("version %q", versionText())
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"--help"}, {"exec", "--help"}, {"help", "kill"}, {"delete", "-h"}} {
		out := executeAs(t, 1000, &fake{}, args...)
		if out.code != 0 || out.stderr != "" || !strings.HasPrefix(out.stdout, "NAME:\n   vc-runtime") {
			t.Errorf("%q: %+v", args, out)
		}
	}
}

// TestNoCheckpoint: CRI-O takes an exit code of 0 for the support of it.
func TestNoCheckpoint(t *testing.T) {
	for _, command := range []string{"checkpoint", "restore", "bogus"} {
		for _, args := range [][]string{{command, "--help"}, {command}, {"help", command}} {
			out := execute(t, &fake{}, args...)
			if out.code == 0 || strings.Count(out.stderr, "\n") != 1 {
				t.Errorf("%q: %+v", args, out)
			}
		}
	}
}

func TestMustBeRoot(t *testing.T) {
	for _, args := range [][]string{{"create", "x"}, {"state", "x"}, {"list"}, {"exec", "x", "sh"}} {
		rt := &fake{}
		out := executeAs(t, 1000, rt, args...)
		if out.code == 0 || len(rt.calls) > 0 || strings.Count(out.stderr, "\n") != 1 ||
			!strings.Contains(out.stderr, "vc-runtime: must be run as root") {
			t.Errorf("%q: %+v", args, out)
		}
	}
}

// A trace has the command as a whole, also where it fails.
func TestTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "trace")
	for _, rt := range []*fake{{}, {err: errors.New("broken")}} {
		execute(t, rt, "--trace", path, "start", "c1")
	}
	out := executeAs(t, 1000, &fake{}, "trace", "summary", path)
	if out.code != 0 || strings.Count(out.stdout, "start c1: ") != 2 {
		t.Errorf("%+v", out)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, args := range map[string][]string{
		"no such file":      {"trace", "summary", path + "x"},
		"unknown sub-comm":  {"trace", "bogus"},
		"exactly 1 arg":     {"trace", "summary"},
		"trace: open":       {"--trace", path + "/x", "start", "c1"},
		"else than a trace": {"--trace", other, "start", "c1"},
	} {
		rt := &fake{}
		out := execute(t, rt, args...)
		if out.code == 0 || !strings.Contains(out.stderr, text) || len(rt.calls) > 0 {
			t.Errorf("%q: %+v", args, out)
		}
	}
}

func TestGlobalFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args []string
		want settings
		err  string
	}{
		{nil, settings{root: "/run/vc-runtime"}, ""},
		{[]string{"--root", "sub/"}, settings{root: cwd + "/sub"}, ""},
		{[]string{"--root=/r/../s", "--config=/c"}, settings{root: "/s", config: "/c"}, ""},
		{[]string{"--rootless=", "--criu", "criu", "--debug"}, settings{root: "/run/vc-runtime"}, ""},
		{[]string{"--rootless", "false", "--systemd-cgroup"}, settings{root: "/run/vc-runtime"}, ""},
		{[]string{"--on-term=signal"}, settings{root: "/run/vc-runtime", onTerm: config.OnTermSignal}, ""},
		{[]string{"--on-term", "stop"}, settings{root: "/run/vc-runtime", onTerm: config.OnTermStop}, ""},
		{[]string{"--on-term=kill"}, settings{}, `invalid --on-term \"kill\": expected \"stop\" or \"signal\"`},
		{[]string{"--on-term="}, settings{}, `invalid --on-term \"\"`},
		{[]string{"--rootless", "true"}, settings{}, "rootless containers are not supported"},
		{[]string{"--rootless=maybe"}, settings{}, `invalid --rootless \"maybe\"`},
		{[]string{"--root", "/"}, settings{}, "option --root must not be /"},
		{[]string{"--root="}, settings{}, "option --root must not be empty"},
		{[]string{"--log-format", "xml"}, settings{}, "invalid log-format: xml"},
		{[]string{"--log", "/nowhere/log"}, settings{}, "open the log: open /nowhere/log: no such file or directory"},
		{[]string{"--bogus"}, settings{}, "flag provided but not defined: -bogus"},
	}
	for _, tt := range tests {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			out := execute(t, &fake{}, append(tt.args, "start", "x")...)
			if out.settings != tt.want || (out.code != 0) != (tt.err != "") || !strings.Contains(out.stderr, tt.err) {
				t.Fatalf("%+v", out)
			}
			if tt.err != "" && strings.Count(out.stderr, "\n") != 1 {
				t.Fatalf("more than a line: %q", out.stderr)
			}
		})
	}
}

func TestFailureIsOneLine(t *testing.T) {
	fails := errors.New("phase boot: no answer\n\tconsole: panic \x1b[31m\r\nthe \"end\"\n")
	const text = `phase boot: no answer; console: panic [31m; the "end"`
	dir := t.TempDir()

	t.Run("text on stderr", func(t *testing.T) {
		out := execute(t, &fake{err: fails}, "start", "x")
		want := regexp.MustCompile(`\Atime="[^"]+" level=error msg=` + regexp.QuoteMeta(fmt.Sprintf("%q", text)) + `\n\z`)
		if out.code != 1 || out.stdout != "" || !want.MatchString(out.stderr) {
			t.Fatalf("%+v", out)
		}
	})
	t.Run("JSON on stderr", func(t *testing.T) {
		out := execute(t, &fake{err: fails}, "--log-format=json", "start", "x")
		checkJSONLog(t, out.stderr, text)
	})
	t.Run("text in a file", func(t *testing.T) {
		log := filepath.Join(dir, "text")
		out := execute(t, &fake{err: fails}, "--log", log, "start", "x")
		if out.stderr != text+"\n" {
			t.Fatalf("stderr %q", out.stderr)
		}
		if got := read(t, log); strings.Count(got, "\n") != 1 || !strings.Contains(got, "level=error") {
			t.Fatalf("log %q", got)
		}
	})
	t.Run("JSON in a file", func(t *testing.T) { // what containerd and podman ask for
		log := filepath.Join(dir, "json")
		out := execute(t, &fake{err: fails}, "--log", log, "--log-format", "json", "start", "x")
		if out.stderr != text+"\n" {
			t.Fatalf("stderr %q", out.stderr)
		}
		checkJSONLog(t, read(t, log), text)
	})
}

// checkJSONLog wants what podman decodes as one object: a single line with
// these fields alone.
func checkJSONLog(t *testing.T, log, msg string) {
	t.Helper()
	var got map[string]string
	if err := json.Unmarshal([]byte(log), &got); err != nil || strings.Count(log, "\n") != 1 {
		t.Fatalf("log %q: %v", log, err)
	}
	if _, err := time.Parse(time.RFC3339, got["time"]); err != nil {
		t.Error(err)
	}
	delete(got, "time")
	if want := map[string]string{"level": "error", "msg": msg}; !reflect.DeepEqual(got, want) {
		t.Errorf("log %v, want %v", got, want)
	}
}

// TestJournal: a line in the journal has a priority, and no second time. A log file,
// or JSON, is what was asked for.
func TestJournal(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "<3>level=error msg=\"one; line\"\n"},
		{[]string{"--debug"}, "<7>level=debug msg=hm\n<4>level=warning msg=careful\n<3>level=error msg=\"one; line\"\n"},
		{[]string{"--log", log}, "one; line\n"},
	} {
		stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		p := &program{stdin: stderr, stdout: stderr, stderr: stderr, journal: func() (bool, error) { return true, nil }}
		p.open = func(p *program, _ settings) (verbs, error) {
			p.log.Debug("hm")
			p.log.Warn("careful")
			return &fake{err: errors.New("one\nline")}, nil
		}
		if code := p.run(append(append([]string{"vc-runtime"}, tt.args...), "start", "x")); code != 1 {
			t.Errorf("%q: code %d", tt.args, code)
		}
		if got := read(t, stderr.Name()); got != tt.want {
			t.Errorf("%q: %q, expected %q", tt.args, got, tt.want)
		}
	}
	if strings.Contains(read(t, log), "<") {
		t.Errorf("the log file: %s", read(t, log))
	}
}

// TestQuietLog: without --debug nothing but the failure is written where a
// caller reads the user's lines or a single object.
func TestQuietLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	for _, tt := range []struct {
		args []string
		want bool // a warning is written
	}{
		{nil, false},
		{[]string{"--log-format=json"}, false},
		{[]string{"--log=" + log, "--log-format=json"}, false},
		{[]string{"--log=" + log}, true},
		{[]string{"--log=/dev/stderr"}, false},
		{[]string{"--log=" + log, "--log-format=json", "--debug"}, true},
	} {
		os.Remove(log)
		stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		p := &program{stdin: stderr, stdout: stderr, stderr: stderr}
		p.open = func(p *program, _ settings) (verbs, error) {
			p.log.Warn("careful")
			return &fake{}, nil
		}
		if code := p.run(append(append([]string{"vc-runtime"}, tt.args...), "start", "x")); code != 0 {
			t.Fatalf("%q: code %d", tt.args, code)
		}
		logged, _ := os.ReadFile(log)
		if got := len(logged) > 0; got != tt.want || read(t, stderr.Name()) != "" {
			t.Errorf("%q: log %q, stderr %q", tt.args, logged, read(t, stderr.Name()))
		}
	}
}

// TestUnwritableStdout: containerd gives /dev/null opened for reading.
func TestUnwritableStdout(t *testing.T) {
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	closed, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	p := &program{stdin: closed, stdout: null, stderr: null}
	p.open = func(*program, settings) (verbs, error) { return &fake{state: &virtcontainers.State{}}, nil }
	if code := p.run([]string{"vc-runtime", "state", "x"}); code != 0 {
		t.Fatalf("code %d", code)
	}
	closed.Close()
	if size := windowSize(closed); size != nil {
		t.Fatalf("a closed file has a size: %v", size)
	}
}
