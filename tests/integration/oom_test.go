package integration

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// eater reads a line that never ends, into memory.
const eater = "tail /dev/zero"

func memoryLimit(bytes int64) testenv.Option {
	return func(s *specs.Spec) { s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &bytes} }
}

// TestStaleOOM: an OOM kill is not that of the next container of the bundle.
func TestStaleOOM(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	b := e.Bundle(testenv.Shell("exit 3"))
	path := filepath.Join(b.Dir, "oom")
	for _, content := range []string{"", "another's"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		c := e.CreateFrom(b, nil)
		c.Start()
		c.Equal("exit code", c.Wait(exitLimit), 3)
		if _, err := os.Stat(path); (err == nil) != (content != "") {
			t.Errorf("the file with %q in it: %v", content, err)
		}
		c.Delete()
	}
}

// TestOOM: a container that takes more memory than its limit ends as if it had
// been killed, and the file is there by which conmon's callers know why, before
// the shim has gone.
func TestOOM(t *testing.T) {
	for _, tt := range []struct {
		name, script string
		options      []testenv.Option
		code         int
		oom          bool
	}{
		{"limit", "exec " + eater, []testenv.Option{memoryLimit(15 << 20)}, 137, true},
		{"a child of a shell that goes on", eater + "; exit 3", []testenv.Option{memoryLimit(15 << 20)}, 3, true},
		{"the whole machine", "exec " + eater, nil, 137, true},
		{"within the limit", "exit 4", []testenv.Option{memoryLimit(15 << 20)}, 4, false},
		{"killed by itself", "sh -c 'kill -KILL $$'; exit $?", nil, 137, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			c := e.Started(nil, append(tt.options, testenv.Shell(tt.script))...)
			if code := c.Wait(exitLimit); code != tt.code {
				t.Errorf("exit code %d, expected %d", code, tt.code)
			}
			_, err := os.Stat(filepath.Join(c.Bundle.Dir, "oom"))
			if (err == nil) != tt.oom {
				t.Errorf("the file that tells of an OOM kill: %v", err)
			}
			c.Delete()
		})
	}
}
