package layers

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMemory: memory does not grow with the data of a layer, and little with
// its entries.
func TestMemory(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, smallFiles(t), filepath.Join(t.TempDir(), "image"))
	cmd.Env = append(os.Environ(), unpackEnv+"=1")
	if c := run(t, cmd, func() error { return nil }); c.memory == 0 || c.memory > 100 {
		t.Errorf("50,000 files of 100 MB in all took %.0f MB of memory", c.memory)
	} else {
		t.Logf("%.0f MB", c.memory)
	}
}
