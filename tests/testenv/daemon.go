package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Daemon is a program of an engine that runs for the whole suite.
type Daemon struct {
	s   *Suite
	pid int
	Log string // path of what it has written
}

// daemonLimit is how long a daemon may take to end after TERM.
const daemonLimit = 60 * time.Second

// StartDaemon starts a program with its output in a file of the suite's folder.
func (s *Suite) StartDaemon(c Command) (*Daemon, error) {
	path := filepath.Join(s.Dir, filepath.Base(c.Path)+".log")
	log, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	pid, err := s.reaper.start(c.Path, append([]string{c.Path}, c.Args...), &os.ProcAttr{
		Dir: "/", Env: nonNil(c.Env), Sys: own(), Files: []*os.File{null, log, log},
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Path, err)
	}
	return &Daemon{s: s, pid: pid, Log: path}, nil
}

// Pid is the daemon's.
func (d *Daemon) Pid() int { return d.pid }

// Running gives an error with the end of the log where the daemon has ended.
func (d *Daemon) Running() error {
	if Alive(d.pid) {
		return nil
	}
	return fmt.Errorf("the daemon has ended: %s", d.Tail())
}

// Tail is the end of the log.
func (d *Daemon) Tail() string {
	b, err := os.ReadFile(d.Log)
	if err != nil {
		return err.Error()
	}
	const most = 4000
	return strings.TrimSpace(string(b[max(0, len(b)-most):]))
}

// Stop ends the daemon with TERM and waits for its end.
func (d *Daemon) Stop() error {
	if err := unix.Kill(d.pid, unix.SIGTERM); err != nil {
		return fmt.Errorf("stop the daemon: %w: %s", err, d.Tail())
	}
	if _, ok := d.s.reaper.wait(d.pid, daemonLimit); !ok {
		unix.Kill(d.pid, unix.SIGKILL)
		return fmt.Errorf("the daemon has not ended %s after TERM: %s", daemonLimit, d.Tail())
	}
	return nil
}
