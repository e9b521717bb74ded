// Package lifecycle says which operations a container's status allows, and
// what the status is, given what was recorded and what lives. It is pure: no
// files, no processes. The commands use it.
package lifecycle

import (
	"errors"
	"fmt"
)

// Status of a container, as in the OCI runtime specification (runtime.md,
// "State"), and runc's paused.
type Status string

const (
	Creating Status = "creating" // create has not finished
	Created  Status = "created"  // the process waits before exec
	Running  Status = "running"
	Paused   Status = "paused"
	Stopped  Status = "stopped" // derived, never recorded
)

// Op is an operation on a container that exists.
type Op string

const (
	OpStart  Op = "start"
	OpExec   Op = "exec"
	OpKill   Op = "kill"
	OpPause  Op = "pause"
	OpResume Op = "resume"
	OpUpdate Op = "update"
	OpDelete Op = "delete"
	OpPs     Op = "ps"
)

// Operations on an id, whether or not there is a container of it: Allow is not
// asked about them.
const (
	OpCreate  Op = "create"
	OpCleanup Op = "clean-up" // of what has been left of an earlier one
)

// Options are the flags that change what is allowed.
type Options struct {
	ID           string // for the error texts
	All          bool   // kill --all: a stopped container is no error
	Force        bool   // delete --force: any status will do
	IgnorePaused bool   // exec --ignore-paused
}

// Errors with the texts of runc. CRI-O and containerd take "container not
// running" in the error of kill for a container that is dead already.
var (
	ErrNotRunning     = errors.New("container not running")
	ErrNotPaused      = errors.New("container not paused")
	ErrAlreadyRunning = errors.New("cannot start an already running container")
	ErrStartStopped   = errors.New("cannot start a container that has stopped")
	ErrExecStopped    = errors.New("cannot exec in a stopped container")
	ErrExecPaused     = errors.New("cannot exec in a paused container (use --ignore-paused to override)")
)

// Allow gives nil when the status allows the operation, and otherwise the
// error for the user.
func Allow(op Op, s Status, o Options) error {
	switch s {
	case Creating, Created, Running, Paused, Stopped:
	default:
		return fmt.Errorf("%s: unknown status %q", op, s)
	}
	switch op {
	case OpStart:
		return allowStart(s)
	case OpExec:
		return allowExec(s, o)
	case OpKill:
		if s == Stopped && !o.All {
			return ErrNotRunning
		}
		return nil
	case OpPause:
		if s == Created || s == Running {
			return nil
		}
		return fmt.Errorf("%w or created: %s", ErrNotRunning, s)
	case OpResume:
		if s == Paused {
			return nil
		}
		return ErrNotPaused
	case OpUpdate, OpPs:
		if s == Creating || s == Stopped {
			return ErrNotRunning
		}
		return nil
	case OpDelete:
		if s == Created || s == Stopped || o.Force {
			return nil
		}
		return fmt.Errorf("cannot delete container %s that is not stopped: %s", o.ID, s)
	}
	return fmt.Errorf("unknown operation %q", op)
}

func allowStart(s Status) error {
	switch s {
	case Created:
		return nil
	case Running:
		return ErrAlreadyRunning
	case Stopped:
		return ErrStartStopped
	}
	return fmt.Errorf("cannot start a container in the %s state", s)
}

func allowExec(s Status, o Options) error {
	switch {
	case s == Created, s == Running, s == Paused && o.IgnorePaused:
		return nil
	case s == Stopped:
		return ErrExecStopped
	case s == Paused:
		return ErrExecPaused
	}
	return fmt.Errorf("cannot exec in a container in the %s state", s)
}

// Liveness says which of the processes that a container needs are alive.
type Liveness struct {
	Creator bool // the command that creates it
	Shim    bool
	Monitor bool // of its sandbox
}

// Derive gives the status of a container whose record says recorded. It is
// false where there is no container: the command that was creating it has
// died. What is left of it then is to be cleaned up.
func Derive(recorded Status, l Liveness) (Status, bool) {
	switch {
	case recorded == Creating && l.Creator:
		return Creating, true
	case recorded == Creating:
		return "", false
	case l.Shim && l.Monitor:
		return recorded, true
	}
	return Stopped, true
}
