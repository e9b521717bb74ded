package virtcontainers

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/statetest"
)

// The monitor of a sandbox that was a spare has the spare's id among its arguments:
// where the sandbox's record is damaged, the spare's tells which process it is.
func TestDamagedRecordOfAdopted(t *testing.T) {
	store := statetest.Store(t)
	var self state.Process
	statetest.AddSpare(t, store, "spare", func(sp *state.Spare) { self = sp.Monitor })
	if err := store.ClaimSpare("spare", "c1"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(store.SandboxDir("c1"), "sandbox.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Runtime{Store: store, Log: logrus.New()}
	r.Log.SetOutput(io.Discard)
	if sb, err := r.sandboxToEnd("c1"); err != nil || sb.Monitor != self {
		t.Errorf("the sandbox is %+v, %v, expected the monitor %v", sb, err, self)
	}
}
