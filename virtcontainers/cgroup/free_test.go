package cgroup

import (
	"math"
	"os"
	"path/filepath"
	"testing"
)

func TestFreeMemory(t *testing.T) {
	const none = "9223372036854771712\n" // v1's word for no limit
	for name, tt := range map[string]struct {
		controllers string
		files       map[string]map[string]string // by cgroup and name
		want        uint64
		limit       string
	}{
		"v1, own": {"cpu,memory", map[string]map[string]string{
			"":    {"memory.limit_in_bytes": none, "memory.usage_in_bytes": "900\n", "memory.stat": "cache 1\n"},
			"a":   {"memory.limit_in_bytes": none, "memory.usage_in_bytes": "900\n", "memory.stat": "cache 1\n"},
			"a/b": {"memory.limit_in_bytes": "1000\n", "memory.usage_in_bytes": "900\n", "memory.stat": "inactive_file 7\ntotal_inactive_file 50\n"},
		}, 150, "a/b/memory.limit_in_bytes"},
		"v2, above": {"", map[string]map[string]string{
			"a":   {"memory.max": "500\n", "memory.current": "450\n", "memory.stat": "inactive_file 20\n"},
			"a/b": {"memory.max": "max\n", "memory.current": "100\n", "memory.stat": ""},
		}, 70, "a/memory.max"},
		"over its limit": {"", map[string]map[string]string{
			"a/b": {"memory.max": "500\n", "memory.current": "600\n", "memory.stat": ""},
		}, 0, "a/b/memory.max"},
		"no limit":          {"", map[string]map[string]string{"a/b": {}}, math.MaxUint64, ""},
		"another hierarchy": {"cpuset", map[string]map[string]string{"a/b": {"memory.max": "1\n"}}, math.MaxUint64, ""},
	} {
		t.Run(name, func(t *testing.T) {
			mount := t.TempDir()
			for cg, files := range tt.files {
				dir := filepath.Join(mount, cg)
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				for name, text := range files {
					if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			got, err := host{{controllers: tt.controllers, mount: mount, root: "/", own: "/a/b"}}.freeMemory()
			if err != nil {
				t.Fatal(err)
			}
			if tt.limit != "" {
				tt.limit = filepath.Join(mount, tt.limit)
			}
			if got != (Room{tt.want, tt.limit}) {
				t.Errorf("%+v, expected %d by %q", got, tt.want, tt.limit)
			}
		})
	}
	if _, err := FreeMemory(); err != nil {
		t.Errorf("this host: %v", err)
	}
}
