// Package hooks runs the OCI hooks of a container (runtime-spec, config.md,
// "POSIX-platform Hooks") that belong to the host. It is used by the command.
//
// All of them run in the runtime namespace, createContainer hooks too: the
// container's namespaces are in the guest, where a path of the host means
// nothing. startContainer hooks are carried into the guest and are run there
// by its runtime; they are unknown here.
package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Kind is a member of config.json's "hooks".
type Kind string

// The kinds that run on the host, in the order of a container's life.
const (
	Prestart        Kind = "prestart"
	CreateRuntime   Kind = "createRuntime"
	CreateContainer Kind = "createContainer"
	Poststart       Kind = "poststart"
	Poststop        Kind = "poststop"
)

var (
	// ErrInvalid is a hook that the specification does not allow.
	ErrInvalid = errors.New("invalid hook")
	// ErrTimeout is a hook that was killed since it ran past its timeout.
	ErrTimeout = errors.New("hook timed out")
)

// Texts of runc 1.1.5, which its users grep for. Later releases say
// "error running createRuntime hook #0: exit status 1, stdout: , stderr: ".
const (
	// createFormat is put before the errors of those hooks that are run while
	// runc's init process waits.
	createFormat  = "error during container init: %w"
	runFormat     = "error running hook #%d: %w"
	exitFormat    = "error running hook: %w, stdout: %s, stderr: %s"
	timeoutFormat = "hook ran past specified timeout of %.1fs"
)

// Check finds hooks that could not be run, before anything is made: those
// whose path is not absolute, or whose timeout is not more than zero. It says
// nothing about startContainer hooks.
//
// Errors: ErrInvalid.
func Check(h *specs.Hooks) error {
	if h == nil {
		return nil
	}
	//lint:ignore SA1019 deprecated, and in use everywhere
	prestart := h.Prestart
	for _, k := range []struct {
		kind Kind
		list []specs.Hook
	}{
		{Prestart, prestart},
		{CreateRuntime, h.CreateRuntime},
		{CreateContainer, h.CreateContainer},
		{Poststart, h.Poststart},
		{Poststop, h.Poststop},
	} {
		for i := range k.list {
			if err := check(k.kind, i, &k.list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func check(kind Kind, i int, h *specs.Hook) error {
	if !filepath.IsAbs(h.Path) {
		return fmt.Errorf("%w: hooks.%s[%d].path: %q is not an absolute path", ErrInvalid, kind, i, h.Path)
	}
	if h.Timeout != nil && *h.Timeout <= 0 {
		return fmt.Errorf("%w: hooks.%s[%d].timeout: %d is not more than zero seconds", ErrInvalid, kind, i, *h.Timeout)
	}
	return nil
}

// Run runs hooks one after the other, each with the state as JSON on stdin, in
// the folder of the bundle, with its own environment, or the caller's where it has
// none.
//
// The first that fails ends the run, and its kind says what follows
// (runtime-spec, runtime.md, "Lifecycle"): the container must be ended and the
// operation fails. For Poststop hooks that is different: all are run, the
// error joins theirs, and the caller only logs it: the container is deleted
// all the same.
//
// A hook has ended when its process has, whoever of its children still holds
// its stdout. One that exceeds its timeout, or that still runs when ctx ends,
// is killed together with its process group.
//
// Errors: ErrInvalid, ErrTimeout, ctx's, an *exec.ExitError, or that of a system call,
// with runc's texts.
func Run(ctx context.Context, kind Kind, list []specs.Hook, st specs.State) error {
	switch kind {
	case Prestart, CreateRuntime, CreateContainer, Poststart, Poststop:
	default:
		return fmt.Errorf("%w: %s hooks do not run on the host", ErrInvalid, kind)
	}
	if len(list) == 0 {
		return nil
	}
	body, err := json.Marshal(st)
	if err != nil {
		return fmt.Errorf("encode the state for %s hooks: %w", kind, err)
	}
	var errs []error
	for i := range list {
		err := runAt(ctx, kind, i, &list[i], body, st.Bundle)
		if err == nil {
			continue
		}
		err = fmt.Errorf(runFormat, i, err)
		switch kind {
		case Poststop:
			errs = append(errs, err)
		case Poststart:
			return err
		default:
			return fmt.Errorf(createFormat, err)
		}
	}
	return errors.Join(errs...)
}

func runAt(ctx context.Context, kind Kind, i int, h *specs.Hook, state []byte, dir string) error {
	if err := check(kind, i, h); err != nil {
		return err
	}
	if h.Timeout != nil {
		limit := time.Duration(*h.Timeout) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, timeoutError(limit))
		defer cancel()
	}
	return run(ctx, h, state, dir)
}

// timeoutError is ErrTimeout with runc's text.
type timeoutError time.Duration

func (e timeoutError) Error() string {
	return fmt.Sprintf(timeoutFormat, time.Duration(e).Seconds())
}

func (e timeoutError) Is(target error) bool { return target == ErrTimeout }
