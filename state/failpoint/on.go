//go:build failpoints

package failpoint

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Enabled reports whether this program has failpoints.
const Enabled = true

const (
	pointsVar = "VC_FAILPOINTS"
	traceVar  = "VC_FAILPOINTS_TRACE"
)

// armed is what the environment asks for: a table that is read once, as the
// environment does not change.
var armed = sync.OnceValues(func() ([]*arm, error) { return parse(os.Getenv(pointsVar)) })

// arm is one NAME[@N]=ACTION.
type arm struct {
	name   Name
	at     int // 0: every time
	action string

	mu   sync.Mutex // guards seen
	seen int
}

func parse(text string) ([]*arm, error) {
	var arms []*arm
	for part := range strings.SplitSeq(text, ";") {
		if part == "" {
			continue
		}
		name, action, ok := strings.Cut(part, "=")
		if !ok {
			return nil, fmt.Errorf("%s: %q: expected NAME=ACTION", pointsVar, part)
		}
		a := &arm{action: action}
		name, at, counted := strings.Cut(name, "@")
		a.name = Name(name)
		if !known(a.name) {
			return nil, fmt.Errorf("%s: %q is no failpoint", pointsVar, name)
		}
		if counted {
			n, err := strconv.Atoi(at)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%s: %q: expected a number from 1 after @", pointsVar, part)
			}
			a.at = n
		}
		arms = append(arms, a)
	}
	return arms, nil
}

func known(name Name) bool {
	if strings.HasPrefix(string(name), ImageSteps) {
		return true
	}
	for _, p := range slices.Concat(Points, SparePoints) {
		if p.Name == name {
			return true
		}
	}
	return false
}

// Here is a failpoint. It gives nil, but where a test says otherwise.
func Here(name Name) error {
	Trace("point", string(name))
	arms, err := armed()
	if err != nil {
		return err
	}
	for _, a := range arms {
		if a.name != name || !a.due() {
			continue
		}
		if err := act(name, a.action); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (a *arm) due() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen++
	return a.at == 0 || a.at == a.seen
}

func act(name Name, action string) error {
	verb, arg, _ := strings.Cut(action, ":")
	switch verb {
	case "", "go":
		return nil
	case "error":
		return failure(arg)
	case "kill":
		Trace("kill", string(name))
		die()
	case "sleep":
		d, err := time.ParseDuration(arg)
		if err != nil {
			return err
		}
		time.Sleep(d)
		return nil
	case "pause":
		return pause(name, arg)
	}
	return fmt.Errorf("%s: unknown action %q", pointsVar, action)
}

// die is SIGKILL for this process. PID 1 of a pid namespace, a container's shim,
// cannot send that to itself (pid_namespaces(7)): it ends without a word, which
// is the same to everybody else.
func die() {
	if unix.Getpid() == 1 {
		unix.Exit(128 + int(unix.SIGKILL))
	}
	unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {} // until it is obeyed
}

func failure(errno string) error {
	switch errno {
	case "":
		return ErrInjected
	case "ENOSPC":
		return unix.ENOSPC
	case "EIO":
		return unix.EIO
	case "ENOMEM":
		return unix.ENOMEM
	case "EMFILE":
		return unix.EMFILE
	}
	return fmt.Errorf("%s: unknown error %q", pointsVar, errno)
}

// pause lets a test decide what happens.
func pause(name Name, socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	defer c.Close()
	if _, err := fmt.Fprintf(c, "%s %d\n", name, os.Getpid()); err != nil {
		return fmt.Errorf("pause: %w", err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return nil // the test has let go
	}
	return act(name, strings.TrimSpace(line))
}

// Trace writes a line "PID KIND WHAT" to the trace, where there is one. A
// container's shim has pid 1.
func Trace(kind, what string) {
	path := os.Getenv(traceVar)
	if path == "" {
		return
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	// One write: lines of several processes do not mix.
	fmt.Fprintf(f, "%d %s %s\n", os.Getpid(), kind, what)
}

// Environ is what a program of ours hands on to another one.
func Environ() []string {
	env := []string{}
	for _, name := range []string{pointsVar, traceVar} {
		if v := os.Getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}
