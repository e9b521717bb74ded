package virtcontainers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/state/lifecycle"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
	"github.com/vc-runtime/vc-runtime/virtcontainers/oci"
	"github.com/vc-runtime/vc-runtime/virtcontainers/shim"
)

// Exec runs a further process in a container, in its guest. It gives the
// process's exit code, or 0 at once where it is to be detached.
func (r *Runtime) Exec(ctx context.Context, o ExecOptions) (int, error) {
	span := trace.Begin(ctx, trace.Phase, "find the container")
	rec, err := r.execIn(ctx, o)
	span.End()
	if err != nil {
		return 255, err
	}
	var process specs.Process
	if err := json.Unmarshal(o.Process, &process); err != nil {
		return 255, fmt.Errorf("decode process: %w", err)
	}
	switch {
	case o.PreserveFDs > 0:
		return 255, fmt.Errorf("--preserve-fds %d: descriptors cannot be handed into a virtual machine", o.PreserveFDs)
	case o.Detach && process.Terminal && o.ConsoleSocket == "":
		return 255, errNoConsole
	case o.ConsoleSocket != "" && !(o.Detach && process.Terminal):
		return 255, errNoTerminal
	}
	guest, dropped, err := oci.GuestProcess(o.Process)
	if err != nil {
		return 255, err
	}
	for _, d := range dropped {
		r.Log.WithField("container", o.ID).Debugf("%s is not applied: %s", d.Field, d.Reason)
	}
	if o.Detach {
		err = r.execDetached(ctx, rec, o, guest, &process)
	} else {
		var code int
		if code, err = r.execForeground(ctx, rec, o, guest, &process); err == nil {
			return code, nil
		}
	}
	if err != nil {
		return 255, fmt.Errorf("unable to start container process: %w", err)
	}
	return 0, nil
}

// execIn gives the container, where something can be executed in it now.
func (r *Runtime) execIn(ctx context.Context, o ExecOptions) (*state.Container, error) {
	r.Reap(ctx)
	rec, err := r.record(o.ID)
	if err != nil {
		return nil, err
	}
	st, ok := r.reconcile(ctx, rec)
	if !ok {
		return nil, state.ErrNotExist
	}
	return rec, lifecycle.Allow(lifecycle.OpExec, st, lifecycle.Options{ID: o.ID, IgnorePaused: o.IgnorePaused})
}

// execForeground is its own shim.
func (r *Runtime) execForeground(ctx context.Context, rec *state.Container, o ExecOptions, guest []byte, process *specs.Process) (int, error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	defer signal.Stop(signals)
	if err := failpoint.Here(failpoint.ExecForeground); err != nil {
		return 255, err
	}
	s, _, err := shim.BeginExec(ctx, r.Store.SandboxDir(rec.Sandbox), &monitor.Request{
		Op: monitor.OpExec, Container: rec.ID, Spec: guest,
		Stdio: shim.StdioOf(process.Terminal, o.Stdin, o.Stdout, o.Stderr),
	}, r.Config.Runtime.CallTimeout.Std(), func() {})
	if err != nil {
		return 255, err
	}
	defer s.Close()
	s.FlushTimeout = r.Config.Runtime.FlushTimeout.Std()
	term := shim.Terminal{File: o.Stdin}
	if process.Terminal {
		if old, err := shim.MakeRaw(o.Stdin); err == nil {
			defer shim.RestoreTerminal(o.Stdin, old)
		}
		if size := process.ConsoleSize; size != nil {
			term.Width, term.Height = uint16(size.Width), uint16(size.Height)
		}
	}
	span := trace.Begin(ctx, trace.Phase, "connect the streams")
	err = s.Connect(ctx, o.Stdin, o.Stdout, o.Stderr, term)
	span.End()
	if err != nil {
		return 255, err
	}
	if err := writePidFile(o.PidFile, os.Getpid()); err != nil {
		return 255, err
	}
	span = trace.Begin(ctx, trace.Phase, "wait for the end")
	code, err := s.Wait(signals)
	span.End()
	if errors.Is(err, monitor.ErrGone) {
		return code, nil // the VM has ended, and the process with it
	}
	return code, err
}

// execDetached starts a shim for the process and leaves it to the caller's
// subreaper.
func (r *Runtime) execDetached(ctx context.Context, rec *state.Container, o ExecOptions, guest []byte, process *specs.Process) error {
	limit := r.Config.Runtime.CallTimeout.Std()
	spawn, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := failpoint.Here(failpoint.ExecSpawnShim); err != nil {
		return err
	}
	proc, conn, err := r.startShim(spawn, shimStart{sandbox: rec.Sandbox, stdio: shimStdio(o.ConsoleSocket, o.Stdin, o.Stdout, o.Stderr)})
	if err != nil {
		return err
	}
	defer conn.Close()
	cfg := &shim.Config{
		Container: rec.ID, SandboxDir: r.Store.SandboxDir(rec.Sandbox),
		Spec: guest, Exec: true, Terminal: process.Terminal,
		CallTimeout:  limit,
		FlushTimeout: r.Config.Runtime.FlushTimeout.Std(),
	}
	if size := process.ConsoleSize; size != nil {
		cfg.Width, cfg.Height = uint16(size.Width), uint16(size.Height)
	}
	if err := r.joinPlace(spawn, rec, proc.Pid); err != nil {
		return errors.Join(err, endChild(ctx, proc, 0))
	}
	err = failpoint.Here(failpoint.ExecBriefShim)
	var rep *monitor.Reply
	if err == nil {
		rep, err = r.briefShim(ctx, conn, cfg, o.ConsoleSocket)
	}
	if err == nil {
		r.notice(rep.Notices)
		err = failpoint.Here(failpoint.ExecPidFile)
	}
	if err == nil {
		err = writePidFile(o.PidFile, proc.Pid)
	}
	if err != nil {
		return errors.Join(err, endChild(ctx, proc, 0))
	}
	return proc.Release()
}

// Process gives the container's process object, for exec to start from.
func (r *Runtime) Process(ctx context.Context, id string) (*specs.Process, error) {
	rec, err := r.record(id)
	if err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(rec.Process, &p); err != nil {
		return nil, fmt.Errorf("record of container %s: process: %w", id, err)
	}
	return &p, nil
}
