package virtcontainers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// newPool makes a runtime that is to have a spare, and cannot start one: it is no
// program, and its guest image is none.
func newPool(t *testing.T) *Runtime {
	t.Helper()
	dir := t.TempDir()
	store, err := state.Open(filepath.Join(dir, "root"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"exe", "qemu", "manifest.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &Runtime{Store: store, Config: config.Default(), Exe: filepath.Join(dir, "exe")}
	r.Config.Hypervisor.QEMU, r.Config.Hypervisor.GuestImage, r.Config.Hypervisor.Spares = filepath.Join(dir, "qemu"), dir, 1
	r.Config.Hypervisor.CacheDir, r.Config.Hypervisor.MemoryReserve = filepath.Join(dir, "cache"), 0
	return r
}

// starts reports whether a create would start a filler, which fails.
func (r *Runtime) starts(t *testing.T) bool {
	t.Helper()
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err == nil {
		err = r.spawnFiller(context.Background(), key)
	}
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Fatal(err)
	}
	return err != nil
}

// Creates start no filler for a while after spares could not be made; those of
// another configuration do, and spare ls says why there are none.
func TestRefillWaits(t *testing.T) {
	r := newPool(t)
	if !r.starts(t) {
		t.Error("no filler is started where nothing has failed")
	}
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Store.NoteSpareFailure(key.Machine, errors.New("for a reason")); err != nil {
		t.Fatal(err)
	}
	if r.starts(t) {
		t.Error("a filler is started just after a failure")
	}
	all, err := r.Spares()
	if err != nil || len(all) != 1 || all[0].State != "failed" || all[0].Failure.Error != "for a reason" || !all[0].Failure.Retry.After(all[0].Created) {
		t.Errorf("spares after a failure: %+v %v", all, err)
	}
	r.Config.Hypervisor.Memory++
	if !r.starts(t) {
		t.Error("the failure of another configuration counts")
	}
	if all, err := r.Spares(); err != nil || len(all) != 0 {
		t.Errorf("spares after a failure of another configuration: %+v %v", all, err)
	}
}

// A filler that fails says so to the creates that come later, each time; spare
// create tries whatever has failed, and creates try again after it.
func TestFillerFails(t *testing.T) {
	r := newPool(t)
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		leave, err := r.Store.OpenSpares()
		if err != nil {
			t.Fatal(err)
		}
		if err := r.refillLocked(leave); !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("a runtime that is no program was started: %v", err)
		}
		failure, err := r.Store.SpareFailure()
		if err != nil || failure.Count != i+1 || failure.Machine != key.Machine || !strings.Contains(failure.Error, "start the monitor") {
			t.Errorf("failure %d is recorded as %+v, %v", i+1, failure, err)
		}
	}
	if r.starts(t) {
		t.Error("a filler is started just after another one has failed")
	}
	if ids, ended, err := r.Store.Spares(); err != nil || len(ids)+len(ended) != 0 {
		t.Errorf("the filler has left the spares %q and %q: %v", ids, ended, err)
	}
	if err := r.FillSpares(t.Context()); err == nil {
		t.Error("a spare was made of nothing")
	}
	if !r.starts(t) {
		t.Error("no filler is started after spare create")
	}
}
