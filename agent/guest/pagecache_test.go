package guest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBoundPageCache(t *testing.T) {
	for name, c := range map[string]struct{ stat, want string }{
		"over":          {"anon 5000\nfile 4000\nkernel 7\nshmem 500\nfile_mapped 9000\n", "2500"},
		"within":        {"anon 5000\nfile 1400\nshmem 500\n", ""},
		"shared memory": {"file 9000\nshmem 8500\n", ""},
		"empty":         {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range map[string]string{"memory.stat": c.stat, "memory.reclaim": ""} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := boundPageCache(dir, 1000); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(filepath.Join(dir, "memory.reclaim")); string(got) != c.want {
				t.Errorf("reclaimed %q, expected %q", got, c.want)
			}
		})
	}
	if err := boundPageCache(t.TempDir(), 1000); err == nil {
		t.Error("no error without a cgroup")
	}
}
