package sandbox

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// TestMonitorSaysWhyItCannotBegin: where there is not even a log, who has started the
// monitor is told.
func TestMonitorSaysWhyItCannotBegin(t *testing.T) {
	creator, end, err := monitor.Pair()
	if err != nil {
		t.Fatal(err)
	}
	defer creator.Close()
	first, err := monitor.FileConn(end)
	if err != nil {
		t.Fatal(err)
	}
	req := &monitor.Request{Op: monitor.OpSandbox, Container: "c", Sandbox: &monitor.SandboxConfig{ID: "c", Root: t.TempDir()}}
	if err := serveSandbox(req, first, nil); err == nil {
		t.Error("a sandbox without a folder was served")
	}
	first.Close()
	if _, err := creator.Answer(t.Context(), monitor.OpSandbox); !errors.Is(err, unix.ENOENT) {
		t.Errorf("told %v, expected ENOENT", err)
	}
}
