// Command mutate takes protections out of the code, one at a time, and sees a
// named test fail without each: a test that passes all the same protects
// nothing. It works in a copy of the tree, which it removes.
//
//	mutate [-run REGEXP] [-list]
//
// It prints a table, and its exit code says whether every mutant was found.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	pattern := flag.String("run", "", "only mutants whose name matches")
	list := flag.Bool("list", false, "print the table of docs/faults.md, and run nothing")
	flag.Parse()
	if *list {
		printTable(os.Stdout)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *pattern); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		stop()
		os.Exit(1)
	}
}

// printTable writes the mutants as Markdown.
func printTable(w io.Writer) {
	fmt.Fprintln(w, "| protection | test |")
	fmt.Fprintln(w, "|---|---|")
	for _, m := range mutants {
		fmt.Fprintf(w, "| %s | `%s` (%s) |\n", m.name, m.run, strings.TrimPrefix(m.pkg, "./"))
	}
}

// limit is for one test, with what it builds.
const limit = 15 * time.Minute

// tree is the copy that is mutated.
type tree struct {
	dir  string
	env  []string
	good map[string]error // by test: what it comes to without a mutant
}

func run(ctx context.Context, pattern string) error {
	want, err := regexp.Compile(pattern)
	if err != nil {
		return fmt.Errorf("-run %q: %w", pattern, err)
	}
	t, err := copyTree(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(t.dir)
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer out.Flush()
	var bad int
	for _, m := range mutants {
		if !want.MatchString(m.name) {
			continue
		}
		begin := time.Now()
		verdict := "found"
		if err := t.try(ctx, m); err != nil {
			bad++
			verdict = err.Error()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%s\n", m.name, m.run, time.Since(begin).Round(time.Second), verdict)
		out.Flush()
	}
	if bad > 0 {
		return fmt.Errorf("%d mutants were not found", bad)
	}
	return nil
}

// copyTree copies what git knows, as it is in the work tree, to a folder of its
// own. What was built is used from here.
func copyTree(ctx context.Context) (*tree, error) {
	top, err := exec.CommandContext(ctx, "git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		return nil, fmt.Errorf("find the work tree: %w", err)
	}
	root := strings.TrimSpace(string(top))
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the work tree: %w", err)
	}
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	t := &tree{dir: dir, good: make(map[string]error), env: append(os.Environ(),
		"GOFLAGS=-trimpath", // what one copy has built is good for the next
		"VC_RUNTIME="+filepath.Join(root, "bin", "vc-runtime"), "VC_GUEST_DIR="+filepath.Join(root, "build", "guest"))}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if err := copyFile(filepath.Join(root, name), filepath.Join(dir, name)); err != nil {
			os.RemoveAll(dir)
			return nil, err
		}
	}
	return t, nil
}

func copyFile(from, to string) error {
	info, err := os.Lstat(from)
	if errors.Is(err, os.ErrNotExist) {
		return nil // removed, and not committed yet
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if info.Mode()&os.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, info.Mode().Perm())
}

// try makes one mutant. It gives an error unless its test passes without it,
// and fails with it.
func (t *tree) try(ctx context.Context, m mutant) error {
	test := m.pkg + " " + m.run
	if _, ok := t.good[test]; !ok {
		out, err := t.test(ctx, m)
		if err == nil && !bytes.Contains(out, []byte("--- PASS: ")) {
			err = errors.New("no such test, or it was skipped")
		}
		t.good[test] = err
	}
	if err := t.good[test]; err != nil {
		return fmt.Errorf("without the mutant: %w", err)
	}
	path := filepath.Join(t.dir, m.file)
	original, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	text := string(original)
	for _, c := range m.changes {
		if n := strings.Count(text, c.old); n != 1 {
			return fmt.Errorf("%s: %d times, expected once: %q", m.file, n, c.old)
		}
		text = strings.Replace(text, c.old, c.new, 1)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	defer os.WriteFile(path, original, 0o644)
	build := exec.CommandContext(ctx, "go", "build", "./"+filepath.Dir(m.file))
	build.Dir, build.Env = t.dir, t.env
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("does not compile: %s", oneLine(out))
	}
	out, err := t.test(ctx, m)
	if err == nil {
		return errors.New("NOT FOUND: the test passes")
	}
	if !bytes.Contains(out, []byte("--- FAIL: ")) && !bytes.Contains(out, []byte("panic: ")) {
		return fmt.Errorf("the test did not run: %s", oneLine(out))
	}
	return nil
}

// test runs the mutant's test on the tree as it is.
func (t *tree) test(ctx context.Context, m mutant) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// The outermost name alone would match those that begin with it.
	parts := strings.Split(m.run, "/")
	for i, p := range parts {
		parts[i] = "^" + p + "$"
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", limit.String(), "-run", strings.Join(parts, "/"), m.pkg)
	cmd.Dir, cmd.Env = t.dir, t.env
	cmd.WaitDelay = time.Minute
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, oneLine(out))
	}
	return out, err
}

// oneLine is the end of an output.
func oneLine(out []byte) string {
	const most = 300
	text := strings.Join(strings.Fields(string(out)), " ")
	return text[max(0, len(text)-most):]
}
