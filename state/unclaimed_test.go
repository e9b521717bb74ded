package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestUnclaimedVersions reads what the version before has written, and what this one
// does; and nothing of a later one.
func TestUnclaimedVersions(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want := Unclaimed{ID: "c", BootID: "b", Until: 5, Sandbox: "pod"}
	if err := s.SaveUnclaimed(&want); err != nil {
		t.Fatal(err)
	}
	want.Version = unclaimedVersion
	if got, err := s.Unclaimed("c"); err != nil || *got != want {
		t.Errorf("got %+v, %v, expected %+v", got, err, want)
	}
	path := filepath.Join(s.Root(), unclaimedDir, "c", unclaimedRecord)
	for text, want := range map[string]error{
		`{"version": 1, "id": "c", "bootID": "b", "until": 5}`: nil,
		`{"version": 3, "id": "c", "bootID": "b", "until": 5}`: ErrFutureVersion,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Unclaimed("c")
		if !errors.Is(err, want) || err == nil && (got.Until != 5 || got.Sandbox != "") {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}
