package virtcontainers

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/spare"
)

// Creates start no filler for a while after spares could not be made; those of
// another configuration do, and spare ls says why there are none.
func TestRefillWaits(t *testing.T) {
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
	// Who starts a filler fails: this runtime is no program.
	starts := func() bool {
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
	if !starts() {
		t.Error("no filler is started where nothing has failed")
	}
	key, err := spare.KeyOf(r.Config, r.Exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.NoteSpareFailure(key.Machine, errors.New("for a reason")); err != nil {
		t.Fatal(err)
	}
	if starts() {
		t.Error("a filler is started just after a failure")
	}
	all, err := r.Spares()
	if err != nil || len(all) != 1 || all[0].State != "failed" || all[0].Failure.Error != "for a reason" || !all[0].Failure.Retry.After(all[0].Created) {
		t.Errorf("spares after a failure: %+v %v", all, err)
	}
	r.Config.Hypervisor.Memory++
	if !starts() {
		t.Error("the failure of another configuration counts")
	}
	if all, err := r.Spares(); err != nil || len(all) != 0 {
		t.Errorf("spares after a failure of another configuration: %+v %v", all, err)
	}
}
