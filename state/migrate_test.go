package state

import (
	"errors"
	"os"
	"testing"
)

// TestMigrate reads records as earlier versions wrote them.
func TestMigrate(t *testing.T) {
	s := openStore(t)
	dir, err := s.MakeSandboxDir("c1")
	if err != nil {
		t.Fatal(err)
	}
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	const process = `{"pid": 7, "startTime": 8}`
	for _, version := range []string{"1", "2"} {
		text := `{"version": ` + version + `, "id": "c1", "monitor": ` + process + `, "vm": ` + process + `,
			"bootID": "` + boot + `", "created": "2026-01-02T03:04:05Z"}`
		if err := os.WriteFile(dir+"/"+sandboxRecord, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		sb, err := s.Sandbox("c1")
		if err != nil || sb.VM != (Process{7, 8}) || len(sb.Started) != 0 {
			t.Fatalf("version %s: %+v, %v", version, sb, err)
		}
		// What is written is the current version.
		sb.Started = []string{"c1"}
		if err := s.SaveSandbox(sb); err != nil {
			t.Fatal(err)
		}
		if sb, err = s.Sandbox("c1"); err != nil || sb.Version != sandboxVersion || len(sb.Started) != 1 {
			t.Errorf("version %s, written again: %+v, %v", version, sb, err)
		}
	}
	if err := os.WriteFile(dir+"/"+sandboxRecord, []byte(`{"version": 99, "id": "c1", "new": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Sandbox("c1"); !errors.Is(err, ErrFutureVersion) {
		t.Errorf("a later version: %v", err)
	}
}
