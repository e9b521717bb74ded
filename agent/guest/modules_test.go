package guest

import (
	"os"
	"path/filepath"
	"testing"
)

// Only a kernel that has it all built in takes no more modules.
func TestSeal(t *testing.T) {
	for name, tc := range map[string]struct {
		modules *Modules
		want    string
	}{
		"all built in":   {&Modules{Groups: map[string][]string{"net": {}, "vsock": {}}}, "1"},
		"no table":       {&Modules{}, "1"},
		"boot modules":   {&Modules{Boot: []string{"/a.ko"}, Groups: map[string][]string{"net": {}}}, "0"},
		"a group's":      {&Modules{Groups: map[string][]string{"net": {}, "vsock": {"/b.ko"}}}, "0"},
		"boot and group": {&Modules{Boot: []string{"/a.ko"}, Groups: map[string][]string{"net": {"/b.ko"}}}, "0"},
	} {
		file := filepath.Join(t.TempDir(), "modules_disabled")
		if err := os.WriteFile(file, []byte("0"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := tc.modules.seal(file); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := os.ReadFile(file); err != nil || string(got) != tc.want {
			t.Errorf("%s: %q, expected %q (%v)", name, got, tc.want, err)
		}
	}
	none := &Modules{}
	if err := none.seal(filepath.Join(t.TempDir(), "not there")); err != nil {
		t.Errorf("a kernel without modules: %v", err)
	}
}
