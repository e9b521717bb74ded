package compare

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// testCase is one bundle, and what is done with it: by default it is run.
type testCase struct {
	name string
	// options change the spec, prepare makes files in the bundle's folder and
	// changes the spec with their paths. Volumes are folders in b.volumes().
	options []testenv.Option
	prepare func(t testing.TB, b *bundle)
	config  string // instead of a spec: the text of config.json
	// steps are done with a container that has been created, and is deleted
	// by force at the end.
	steps []step
	stdin string
	// tty runs it at a terminal of 80 by 24, and enter types a line into it (see step).
	tty, enter bool
	// short is part of the short form.
	short bool
}

// step is a command of the runtime; ID in its arguments is the container's id
// and DIR the bundle.
type step struct {
	args  []string
	stdin string
	tty   bool
	// enter types an empty line once the terminal is raw. The process waits for it
	// (awaitEnter) before it writes: runc changes the settings of both terminals
	// while the process runs already, so that early lines end in one more or one less
	// carriage return.
	enter bool
	null  bool // stdio is /dev/null, for what stays behind
	// host is done instead, to the bundle.
	host func(t testing.TB, b *bundle)
}

// awaitEnter is the beginning of a script of a step or a case with enter.
const awaitEnter = "read -r _; "

// bundle is a case's bundle. It has the same path for both runtimes.
type bundle struct {
	dir, rootfs string
	spec        *specs.Spec
}

func (b *bundle) path(name string) string { return filepath.Join(b.dir, name) }

// volume makes a folder whose files are compared after the run.
func (b *bundle) volume(t testing.TB, name string) string {
	path := b.path("volumes/" + name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func (b *bundle) write(t testing.TB, path, content string, mode os.FileMode) string {
	if !filepath.IsAbs(path) {
		path = b.path(path)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // whatever the umask is
		t.Fatal(err)
	}
	return path
}

func (b *bundle) mount(source, destination, kind string, options ...string) {
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{
		Source: source, Destination: destination, Type: kind, Options: options,
	})
}

// runner runs cases under one runtime.
type runner struct {
	*testenv.Env
	// scrub takes out of a text what tells the runtimes apart.
	scrub *strings.Replacer
}

func newRunner(e *testenv.Env, runtime string) *runner {
	other := *e
	other.Suite = e.Beside(runtime)
	name := filepath.Base(runtime)
	other.Root = e.Path("root." + name)
	return &runner{Env: &other, scrub: strings.NewReplacer(other.Root, "ROOT", `"`+name+" ", `"RUNTIME `)}
}

// timestamp is that of a line of the log.
var timestamp = regexp.MustCompile(`time="[^"]*"`)

// lines makes a text comparable. Its last line tells whether it ends with a
// newline.
func (r *runner) lines(what, text string) []string {
	if text == "" {
		return nil
	}
	text = r.scrub.Replace(timestamp.ReplaceAllString(text, `time="TIME"`))
	body, complete := strings.CutSuffix(text, "\n")
	lines := strings.Split(body, "\n")
	if !complete {
		lines[len(lines)-1] += " (no newline)"
	}
	for i := range lines {
		lines[i] = what + strings.ReplaceAll(lines[i], "\r", `\r`)
	}
	return lines
}

// unmount unmounts a rootfs, at the first try after vc-runtime. Nobody waits for
// what a container of runc's still holds when its first process has ended.
func (r *runner) unmount(rootfs string) error {
	deadline := time.Now().Add(testenv.DefaultTimeout)
	for {
		err := unix.Unmount(rootfs, 0)
		if err != unix.EBUSY || r.IsVM() || time.Now().After(deadline) {
			return err
		}
		time.Sleep(10 * time.Millisecond) // there is no event for it
	}
}

// run runs a case in a fresh bundle in dir, which is taken away again.
func (r *runner) run(t *testing.T, c *testCase, dir string) []string {
	t.Helper()
	sub := &runner{Env: r.With(t), scrub: r.scrub}
	b := &bundle{dir: dir, rootfs: filepath.Join(dir, "rootfs"), spec: testenv.DefaultSpec()}
	upper, work := dir+".upper", dir+".work"
	for _, d := range []string{dir, b.rootfs, upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", r.Base, upper, work)
	if err := unix.Mount("overlay", b.rootfs, "overlay", 0, layers); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.unmount(b.rootfs); err != nil {
			t.Errorf("%s: unmount the rootfs: %v", filepath.Base(r.Runtime), err)
			return
		}
		for _, d := range []string{dir, upper, work} {
			if err := os.RemoveAll(d); err != nil {
				t.Error(err)
			}
		}
	}()
	c.make(t, b)
	lines := sub.perform(c, b)
	files, err := rootfsFiles(upper, b.rootfs, r.Base)
	if err != nil {
		t.Fatal(err)
	}
	lines = append(lines, files...)
	if _, err := os.Stat(b.path("volumes")); err == nil {
		if files, err = volumeFiles(b.path("volumes"), "volume/"); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, files...)
	}
	return lines
}

func (c *testCase) make(t *testing.T, b *bundle) {
	t.Helper()
	for _, o := range c.options {
		o(b.spec)
	}
	if c.prepare != nil {
		c.prepare(t, b)
	}
	text := []byte(c.config)
	if c.config == "" {
		var err error
		if text, err = json.Marshal(b.spec); err != nil {
			t.Fatal(err)
		}
	}
	if c.config != "-" { // no config.json at all
		b.write(t, "config.json", string(text), 0o644)
	}
}

// perform does the case's steps and gives what came out.
func (r *runner) perform(c *testCase, b *bundle) []string {
	id := r.ID()
	if c.steps == nil {
		return r.do(step{args: []string{"run", "--bundle", "DIR", "ID"}, stdin: c.stdin, tty: c.tty, enter: c.enter}, b, id)
	}
	defer r.Do("delete", "--force", id)
	lines := r.do(step{args: []string{"create", "--bundle", "DIR", "ID"}, null: true}, b, id)
	for _, s := range c.steps {
		if s.host != nil {
			s.host(r.TB, b)
			continue
		}
		lines = append(lines, "step "+strings.Join(s.args, " "))
		lines = append(lines, r.do(s, b, id)...)
	}
	return lines
}

func (r *runner) do(s step, b *bundle, id string) []string {
	args := slices.Clone(s.args)
	for i := range args {
		args[i] = strings.NewReplacer("DIR", b.dir, "ID", id).Replace(args[i])
	}
	clean := func(lines []string) []string {
		for i := range lines {
			lines[i] = strings.NewReplacer(id, "ID", b.dir, "DIR").Replace(lines[i])
		}
		return lines
	}
	if s.tty {
		console, pid := r.Command(80, 24, args...)
		if s.enter {
			console.AwaitRaw()
			console.Type("\n")
		}
		code := r.Await(pid, testenv.DefaultTimeout)
		lines := append(clean(r.lines("terminal: ", console.Rest())), fmt.Sprintf("exit code %d", code))
		console.Close()
		return lines
	}
	cmd := testenv.Command{Args: args, Null: s.null}
	if s.stdin != "" {
		cmd.Stdin = strings.NewReader(s.stdin)
	}
	res := r.Call(cmd)
	lines := append(r.lines("stdout: ", res.Stdout), r.lines("stderr: ", res.Stderr)...)
	return append(clean(lines), fmt.Sprintf("exit code %d", res.Code))
}

func TestCompare(t *testing.T) {
	rows, err := readDifferences()
	if err != nil {
		t.Fatal(err)
	}
	e := suite.New(t)
	cases := allCases()
	runc, ours := newRunner(e, testenv.Tool(t, "runc")), newRunner(e, suite.Runtime)
	ours.OK("template", "create") // whoever makes one says so, which no container of runc's does
	var mu sync.Mutex             // guards ran and rows
	ran := make(map[string]bool)
	t.Run("all", func(t *testing.T) { // ends when all parallel cases have
		for i := range cases {
			c := &cases[i]
			if !c.short && !all() {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				dir := e.Path(c.name)
				want := runc.run(t, c, dir)
				got := ours.run(t, c, dir)
				onlyRunc, onlyOurs := changes(want, got)
				mu.Lock()
				defer mu.Unlock()
				ran[c.name] = true
				if text, ok := explain(rows, c.name, onlyRunc, onlyOurs); !ok {
					t.Errorf("runc (-) and vc-runtime (+) differ:\n%s\nrunc gives:\n%s", text, strings.Join(want, "\n"))
				} else if os.Getenv("VC_COMPARE_SHOW") != "" {
					t.Logf("both give:\n%s", strings.Join(want, "\n"))
				}
			})
		}
	})
	var skipped []string
	for _, c := range cases {
		if !ran[c.name] {
			skipped = append(skipped, c.name)
		}
	}
	unused(t, rows, skipped)
	t.Logf("%d of %d cases compared", len(ran), len(cases))
}

// TestNames checks that the names of the cases are theirs alone.
func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, c := range allCases() {
		if seen[c.name] || c.name == "" {
			t.Errorf("two cases called %q", c.name)
		}
		seen[c.name] = true
	}
	if len(seen) < 150 {
		t.Errorf("%d cases are fewer than 150", len(seen))
	}
}
