// Package statetest makes stores and records for tests of the packages that use
// package state.
package statetest

import (
	"testing"

	"github.com/vc-runtime/vc-runtime/state"
)

// Store opens a store in a folder of the test's own.
func Store(t testing.TB) *state.Store {
	t.Helper()
	store, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// AddSpare makes the spare id with its record: of this boot, with this process for
// its monitor, but for what change has otherwise.
func AddSpare(t testing.TB, store *state.Store, id string, change func(*state.Spare)) {
	t.Helper()
	self, err := state.Self()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := state.BootID()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.MakeSpareDir(id); err != nil {
		t.Fatal(err)
	}
	sp := &state.Spare{Monitor: self, BootID: boot}
	change(sp)
	if err := store.SaveSpare(id, sp); err != nil {
		t.Fatal(err)
	}
}
