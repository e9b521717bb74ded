package testenv

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultTimeout is how long a command may take before the test fails: what takes
// seconds on an idle machine takes minutes on one that does ten other things.
const DefaultTimeout = 4 * time.Minute

// outputLimit is how long the end of a program's output may come after the end
// of the program.
const outputLimit = 3 * time.Second

// Command is a program to run to its end.
type Command struct {
	Path  string
	Args  []string // without the program's name
	Env   []string // nothing is inherited
	Stdin io.Reader
	// Null makes stdin, stdout and stderr /dev/null, for a program whose
	// children live on with its stdio.
	Null bool
	// Files are inherited, from descriptor 3 on.
	Files []*os.File
	// Output is the same, with a file that stdout and stderr are appended to.
	Output string
	Limit  time.Duration // 0 is DefaultTimeout
	Sys    *syscall.SysProcAttr
	// Started, if set, is called with the pid while the program runs.
	Started func(pid int)
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int // 128+N after signal N
	Took           time.Duration
	line           string
}

func (r *Result) String() string {
	return fmt.Sprintf("%s: exit code %d after %s\nstdout: %s\nstderr: %s",
		r.line, r.Code, r.Took.Round(time.Millisecond), r.Stdout, r.Stderr)
}

// Run runs the command. It returns when the program has ended **and** its
// stdout and stderr have come to their end, as callers of runtimes do: a
// daemon that holds them open makes the test fail with the time-out.
func (s *Suite) Run(t testing.TB, c Command) *Result {
	t.Helper()
	res, err := s.Exec(c)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Exec is Run where there is no test to fail.
func (s *Suite) Exec(c Command) (*Result, error) {
	limit := c.Limit
	if limit == 0 {
		limit = DefaultTimeout
	}
	stdin, err := stdinOf(c.Stdin)
	if err != nil {
		return nil, err
	}
	defer stdin.child.Close()
	stdout, err := newCapture()
	if err != nil {
		return nil, err
	}
	stderr, err := newCapture()
	if err != nil {
		return nil, err
	}
	line := c.Path + " " + strings.Join(c.Args, " ")
	sys := c.Sys
	if sys == nil {
		sys = own()
	}
	files := []*os.File{stdin.child, stdout.child, stderr.child}
	if c.Null {
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		files = []*os.File{null, null, null}
	}
	if c.Output != "" {
		f, err := os.OpenFile(c.Output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files[1], files[2] = f, f
	}
	begin := time.Now()
	pid, err := s.reaper.start(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
		Dir: "/", Env: nonNil(c.Env), Sys: sys, Files: append(files, c.Files...),
	})
	stdout.child.Close()
	stderr.child.Close()
	if err != nil {
		stdout.wait(0)
		stderr.wait(0)
		return nil, fmt.Errorf("%s: %w", line, err)
	}
	go stdin.feed()
	if c.Started != nil {
		c.Started(pid)
	}
	code, ok := s.reaper.wait(pid, limit)
	took := time.Since(begin)
	var doing string
	if !ok {
		doing = s.diagnose()
		unix.Kill(pid, unix.SIGKILL)
	}
	outErr, errErr := stdout.wait(outputLimit), stderr.wait(outputLimit)
	res := &Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: code, Took: took, line: line}
	switch {
	case !ok:
		return nil, fmt.Errorf("%s: still running after %s\nstdout: %s\nstderr: %s\n%s", line, limit, res.Stdout, res.Stderr, doing)
	case outErr != nil || errErr != nil:
		return nil, fmt.Errorf("%s: has ended (%d), but its output is still open: %w", line, code, errors.Join(outErr, errErr))
	}
	return res, nil
}

// nonNil keeps an empty environment empty: nil would mean the suite's.
func nonNil(env []string) []string {
	if env == nil {
		return []string{}
	}
	return env
}

// capture collects what is written into a pipe.
type capture struct {
	child *os.File // the end for the writer
	r     *os.File
	buf   bytes.Buffer // read after done only
	done  chan struct{}
}

func newCapture() (*capture, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c := &capture{child: w, r: r, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		io.Copy(&c.buf, r) // ends with the last writer, or with wait's deadline
	}()
	return c, nil
}

// wait waits for the end of the output. After limit it gives up, and says so.
func (c *capture) wait(limit time.Duration) error {
	defer c.r.Close()
	select {
	case <-c.done:
		return nil
	case <-time.After(limit):
	}
	c.r.SetReadDeadline(time.Unix(1, 0))
	<-c.done
	return fmt.Errorf("no end of the output after %s", limit)
}

func (c *capture) String() string { <-c.done; return c.buf.String() }

// input is a child's stdin: /dev/null where there is nothing to write.
type input struct {
	child *os.File
	w     *os.File
	from  io.Reader
}

func stdinOf(from io.Reader) (*input, error) {
	if from == nil {
		f, err := os.Open(os.DevNull)
		return &input{child: f}, err
	}
	r, w, err := os.Pipe()
	return &input{child: r, w: w, from: from}, err
}

func (i *input) feed() {
	if i.from == nil {
		return
	}
	io.Copy(i.w, i.from) // a reader that has gone is the reader's choice
	i.w.Close()
}

// Tool is the path of a program of the host that a test needs. A missing one
// fails the test.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: run `hack/deps test`: %v", name, err)
	}
	return path
}
