package share

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestTimeout has a guest rely on what it knows for half a second only, where the
// server can be told to, and where nothing else is configured.
func TestTimeout(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"c": "...\x00timeout=%lf\x00timeout=\x00", "rust": "...no such option...",
		"across": strings.Repeat("x", lookBuffer-5) + "timeout=%lf\x00", "far": strings.Repeat("y", 5*lookBuffer) + "timeout=%lf"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		server, cache string
		want          bool
	}{{"c", "auto", true}, {"c", "always", false}, {"c", "never", false}, {"rust", "auto", false}, {"across", "auto", true}, {"far", "auto", true}, {"missing", "auto", false}} {
		got := args(&Config{Server: filepath.Join(dir, tt.server), Cache: tt.cache}, "/share")
		if slices.Contains(got, "timeout=0.5") != tt.want {
			t.Errorf("%s with cache %s: %q", tt.server, tt.cache, got)
		}
	}
}
