package sandbox

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/statetest"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Only a record that changes is written, which takes the time of a disk: the machine
// of one that was a spare is in there already.
func TestRecordUnchanged(t *testing.T) {
	store := statetest.Store(t)
	if _, err := store.MakeSandboxDir("c"); err != nil {
		t.Fatal(err)
	}
	vm := state.Process{Pid: 7, StartTime: 8}
	if err := store.SaveSandbox(&state.Sandbox{ID: "c", VM: vm}); err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	s := newSandbox(&monitor.SandboxConfig{ID: "c", Config: *config.Default()}, store, logrus.NewEntry(log))
	path := filepath.Join(store.SandboxDir("c"), "sandbox.json")
	written := func(change func(*state.Sandbox)) bool {
		t.Helper()
		before, err := os.Stat(path)
		if err == nil {
			err = s.record(change)
		}
		if err != nil {
			t.Fatal(err)
		}
		after, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return !os.SameFile(before, after) // written aside, and renamed
	}
	if written(func(rec *state.Sandbox) { rec.VM = vm }) {
		t.Error("a record that does not change is written")
	}
	if !written(func(rec *state.Sandbox) { rec.Started = append(rec.Started, "c") }) {
		t.Error("a record that changes is not written")
	}
	rec, err := store.Sandbox("c")
	if err != nil || len(rec.Started) != 1 || rec.VM != vm {
		t.Errorf("recorded is %v, %v", rec, err)
	}
}
