package testenv

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Container is a container with the stdio that conmon gives it: pipes, or a
// terminal.
type Container struct {
	*Env
	ID     string
	Bundle *Bundle
	Pid    int // of the shim, once Create has succeeded
	// Console is the master of the terminal, where the bundle asks for one.
	Console *Console

	stdin          *input
	stdout, stderr *capture
	deleted        bool
}

// Container makes the bundle and creates the container; stdin may be nil.
func (e *Env) Container(stdin io.Reader, options ...Option) *Container {
	e.Helper()
	return e.CreateFrom(e.Bundle(options...), stdin)
}

// CreateFrom creates a container, which must succeed. What is left of it when
// the test ends is deleted by force.
func (e *Env) CreateFrom(b *Bundle, stdin io.Reader) *Container {
	e.Helper()
	c, res := e.TryCreate(b, stdin)
	if res.Code != 0 {
		e.Fatal(res)
	}
	return c
}

// TryCreate runs create as conmon does. Where it fails, Stderr has what came
// out of the container's stderr. The container's output is open until Wait.
func (e *Env) TryCreate(b *Bundle, stdin io.Reader) (*Container, *Result) {
	e.Helper()
	c := &Container{Env: e, ID: b.ID, Bundle: b}
	if c.ID == "" {
		c.ID = e.id("c")
	}
	pidFile := filepath.Join(b.Dir, "pid")
	args := append(e.Globals(), "create", "--bundle", b.Dir, "--pid-file", pidFile)
	if b.Spec.Process.Terminal {
		c.Console = e.NewConsole()
		args = append(args, "--console-socket", c.Console.Path)
	}
	args = append(args, c.ID)
	c.openStdio(stdin)
	begin := time.Now()
	pid, err := e.reaper.start(e.Runtime, append([]string{e.Runtime}, args...), &os.ProcAttr{
		Dir: b.Dir, Env: e.environ(), Sys: own(),
		Files: []*os.File{c.stdin.child, c.stdout.child, c.stderr.child},
	})
	for _, f := range []*os.File{c.stdin.child, c.stdout.child, c.stderr.child} {
		f.Close()
	}
	if err != nil {
		e.Fatal(err)
	}
	code, ok := e.reaper.wait(pid, DefaultTimeout)
	var doing string
	if !ok {
		doing = e.diagnose()
		unix.Kill(pid, unix.SIGKILL)
		code = -1
	}
	res := &Result{Code: code, Took: time.Since(begin), line: e.Runtime + " " + strings.Join(args, " ")}
	if code != 0 {
		if !ok {
			e.Do("delete", "--force", c.ID)
		}
		c.closeStdin()
		if err := c.endOfOutput(); err != nil {
			e.Errorf("create has failed, and its output is still open: %v", err)
		}
		res.Stdout, res.Stderr = c.stdout.String(), c.stderr.String()+doing
		if c.Console != nil {
			c.Console.Close()
		}
		return c, res
	}
	e.Cleanup(c.cleanUp)
	if c.Pid, err = strconv.Atoi(e.Read(pidFile)); err != nil {
		e.Fatalf("pid-file: %v", err)
	}
	if c.Console != nil {
		c.Console.Receive()
		// The container has the terminal; containerd waits for this.
		if err := c.endOfOutput(); err != nil {
			e.Errorf("create has ended, and its output is still open: %v", err)
		}
	}
	go c.stdin.feed()
	return c, res
}

func (c *Container) openStdio(stdin io.Reader) {
	c.Helper()
	var err error
	if c.stdin, err = stdinOf(stdin); err != nil {
		c.Fatal(err)
	}
	if c.stdout, err = newCapture(); err != nil {
		c.Fatal(err)
	}
	if c.stderr, err = newCapture(); err != nil {
		c.Fatal(err)
	}
}

// Started creates and starts a container.
func (e *Env) Started(stdin io.Reader, options ...Option) *Container {
	e.Helper()
	c := e.Container(stdin, options...)
	c.Start()
	return c
}

// Start starts the container.
func (c *Container) Start() {
	c.Helper()
	c.OK("start", c.ID)
}

// Wait waits for the end of the container and gives its exit code. Its output
// must have come to its end by then, like conmon expects.
func (c *Container) Wait(limit time.Duration) int {
	c.Helper()
	code := c.Await(c.Pid, limit)
	if err := c.endOfOutput(); err != nil {
		c.Errorf("the shim has ended, and the output has not: %v", err)
	}
	return code
}

// endOfOutput gives the pipes a second: their last writer has gone already.
func (c *Container) endOfOutput() error {
	if err := c.stdout.wait(time.Second); err != nil {
		return err
	}
	return c.stderr.wait(time.Second)
}

// EndOfStdout waits until nobody has the container's stdout open any more.
func (c *Container) EndOfStdout(limit time.Duration) error {
	select {
	case <-c.stdout.done:
		return nil
	case <-time.After(limit):
		return fmt.Errorf("stdout is still open after %s", limit)
	}
}

// Piped starts the runtime with the given stdout, and gives its pid and how to wait
// for its end and its exit code.
func (e *Env) Piped(stdout *os.File, args ...string) (pid int, end func() int) {
	e.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		e.Fatal(err)
	}
	defer null.Close()
	pid, err = e.reaper.start(e.Runtime, append(append([]string{e.Runtime}, e.Globals()...), args...), &os.ProcAttr{
		Dir: "/", Env: e.environ(), Sys: own(), Files: []*os.File{null, stdout, null},
	})
	if err != nil {
		e.Fatal(err)
	}
	return pid, func() int { e.Helper(); return e.Await(pid, DefaultTimeout) }
}

func (c *Container) closeStdin() {
	if c.stdin.w != nil {
		c.stdin.w.Close()
	}
}

// Stdout is the whole output. It is valid after Wait.
func (c *Container) Stdout() string { return c.stdout.String() }

// Stderr is the whole error output. It is valid after Wait.
func (c *Container) Stderr() string { return c.stderr.String() }

// WaitFor waits until a file in the rootfs exists, which is how a script says
// how far it is.
func (c *Container) WaitFor(name string) {
	c.Helper()
	Eventually(c, DefaultTimeout, func() error {
		_, err := os.Stat(filepath.Join(c.Bundle.Rootfs, name))
		return err
	})
}

// Delete deletes the stopped container.
func (c *Container) Delete() {
	c.Helper()
	c.OK("delete", c.ID)
	c.deleted = true
}

// DeleteForced deletes it in any state.
func (c *Container) DeleteForced() {
	c.Helper()
	c.OK("delete", "--force", c.ID)
	c.deleted = true
}

// cleanUp runs when the test ends, before the overlay is unmounted.
func (c *Container) cleanUp() {
	if !c.deleted {
		c.OK("delete", "--force", c.ID)
	}
	c.Await(c.Pid, 5*time.Second)
	c.closeStdin()
	if err := c.endOfOutput(); err != nil {
		c.Error(err)
	}
	if c.Console != nil {
		c.Console.Close()
	}
	if c.Failed() {
		c.Logf("stdout of %s: %s\nstderr: %s", c.ID, clip(c.Stdout()), clip(c.Stderr()))
	}
}

// clip shortens what would fill the screen.
func clip(s string) string {
	const most = 2000
	if len(s) <= most {
		return s
	}
	return s[:most] + "…"
}
