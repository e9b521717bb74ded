package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// The program of a rehearsal reads all of its input before it says anything.
func TestRehearsedProgram(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("NOT RUN: needs an x86-64 processor: it runs on the host what is machine code for such a guest")
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, rehearsed(), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Stdin = strings.NewReader("some\ninput\n")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	if stdout.Len() != 1 || stderr.Len() != 1 {
		t.Errorf("it says %q and %q, expected a byte each", stdout.Bytes(), stderr.Bytes())
	}
}

// mute is an agent that never answers.
type mute struct{ Guest }

func (mute) Refresh(ctx context.Context, _ *api.RefreshRequest) (*api.Empty, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}
func (mute) Close() error { return nil }

// A guest that hangs in its rehearsal does not become a spare. Why is on record.
func TestRehearsalHangs(t *testing.T) {
	w := newWaiting(t, func(c *config.Config) { c.Runtime.CallTimeout = config.Seconds(0.05) })
	dir := t.TempDir()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = w.warm(func(context.Context, *monitor.SandboxConfig, func(hypervisor.VM) error) (*Machine, error) {
		return &Machine{VM: &fakeVM{done: make(chan struct{})}, Guest: mute{}, template: f, templateKey: "key"}, nil
	})
	if err == nil || !strings.Contains(err.Error(), "runtime.call_timeout") {
		t.Errorf("a guest that does not answer: %v", err)
	}
	w.leaveWord(err)
	if failure, err := w.store.SpareFailure(); err != nil || failure.Machine != "m" || !strings.Contains(failure.Error, "runtime.call_timeout") {
		t.Errorf("the record of the failure: %+v %v", failure, err)
	}
	if sp, err := w.store.Spare("spare"); err != nil || sp.Ready {
		t.Errorf("the spare: %+v %v", sp, err)
	}
}

// able is an agent that does what a spare's is asked for.
type able struct{ Guest }

func (able) Refresh(context.Context, *api.RefreshRequest) (*api.Empty, error) {
	return &api.Empty{}, nil
}
func (able) Rehearse(context.Context, *api.Empty) (*api.Empty, error) { return &api.Empty{}, nil }

// Creates do not wait any more once there has been a spare after a failure.
func TestReadySpareEndsWait(t *testing.T) {
	dir := t.TempDir()
	w := newWaiting(t, func(c *config.Config) { c.Share.Virtiofsd = filepath.Join(dir, "none") })
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := w.store.NoteSpareFailure("m", errors.New("for a reason")); err != nil {
		t.Fatal(err)
	}
	err = w.warm(func(context.Context, *monitor.SandboxConfig, func(hypervisor.VM) error) (*Machine, error) {
		return &Machine{VM: &fakeVM{done: make(chan struct{})}, Guest: able{}, template: f, templateKey: "key"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if failure, err := w.store.SpareFailure(); !errors.Is(err, state.ErrNotExist) {
		t.Errorf("the record of the failure is still there: %+v %v", failure, err)
	}
	if sp, err := w.store.Spare("spare"); err != nil || !sp.Ready {
		t.Errorf("the spare: %+v %v", sp, err)
	}
}

// A spare whose turn comes late on a busy host has the time: what bounds its start
// is far beyond what a create may take.
func TestSpareLimit(t *testing.T) {
	w := newWaiting(t, func(c *config.Config) { c.Runtime.CreateTimeout = config.Seconds(3600) })
	seen := errors.New("seen")
	err := w.warm(func(ctx context.Context, _ *monitor.SandboxConfig, _ func(hypervisor.VM) error) (*Machine, error) {
		if end, ok := ctx.Deadline(); !ok || time.Until(end) < 2*time.Hour {
			t.Errorf("the start of a spare ends at %v (%t)", end, ok)
		}
		return nil, seen
	})
	if !errors.Is(err, seen) {
		t.Error(err)
	}
}
