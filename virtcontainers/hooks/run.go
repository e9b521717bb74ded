package hooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// outputLimit is how much of a hook's stdout and of its stderr an error
	// shows, in bytes.
	outputLimit = 8 << 10
	// drainTimeout is how long a hook's pipes are still read when it has
	// ended. All that it wrote itself is in them by then.
	drainTimeout = 100 * time.Millisecond
)

// run runs one hook to its end.
func run(ctx context.Context, h *specs.Hook, state []byte, dir string) error {
	if ctx.Err() != nil {
		return killed(ctx)
	}
	stdout, stderr := &tail{limit: outputLimit}, &tail{limit: outputLimit}
	cmd := exec.CommandContext(ctx, h.Path) // absolute, so not looked for in PATH
	cmd.Args = h.Args
	if len(cmd.Args) == 0 {
		cmd.Args = []string{h.Path}
	}
	if len(h.Env) > 0 { // a hook without an environment has ours, as runc's have
		cmd.Env = h.Env
	}
	cmd.Dir = folder(dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(state), stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			err = os.ErrProcessDone
		}
		return err
	}
	cmd.WaitDelay = drainTimeout
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil // the latter: a child of the hook holds its output
	case ctx.Err() != nil && (bySignal(err) || errors.Is(err, ctx.Err())):
		return killed(ctx)
	default:
		return fmt.Errorf(exitFormat, err, stdout, stderr)
	}
}

func bySignal(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return false
	}
	st, ok := exit.Sys().(syscall.WaitStatus)
	return ok && st.Signaled()
}

// killed says why ctx has ended: because of the hook's own timeout, or the
// caller's.
func killed(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ErrTimeout) {
		return cause
	}
	return fmt.Errorf("hook was killed: %w", cause)
}

// folder is where hooks run: the bundle. A poststop hook may find it gone.
func folder(bundle string) string {
	if st, err := os.Stat(bundle); err != nil || !st.IsDir() {
		return "/"
	}
	return bundle
}

// tail keeps the end of what is written to it. It has one writer, and is read
// when that has ended.
type tail struct {
	limit   int
	buf     []byte
	dropped bool
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - t.limit; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
		t.dropped = true
	}
	return len(p), nil
}

// String gives valid UTF-8.
func (t *tail) String() string {
	s := strings.ToValidUTF8(string(t.buf), "\uFFFD")
	if t.dropped {
		return "…" + s
	}
	return s
}
