package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// runtime runs the runtime as podman does, with the default state folder.
func (p podman) runtime(args ...string) string {
	p.Helper()
	res := p.Run(p, testenv.Command{Path: p.Runtime, Args: append([]string{"--config", p.Config}, args...)})
	if res.Code != 0 {
		p.Fatal(res)
	}
	return res.Stdout
}

// spare waits until there is one spare that is ready, and gives its id.
func (p podman) spare() (id string) {
	p.Helper()
	testenv.Eventually(p, 5*time.Minute, func() error {
		var all []struct{ ID, State string }
		if err := json.Unmarshal([]byte(p.runtime("spare", "ls", "--format", "json")), &all); err != nil {
			return err
		}
		if len(all) != 1 || all[0].State != "ready" {
			return fmt.Errorf("spares: %v", all)
		}
		id = all[0].ID
		return nil
	})
	return id
}

// TestSpares runs one container after another with a spare machine: each takes
// the one that there is, and nothing of either is left. VC_SPARE_RUNS is how many.
func TestSpares(t *testing.T) {
	runs := 2
	if v := os.Getenv("VC_SPARE_RUNS"); v != "" {
		var err error
		if runs, err = strconv.Atoi(v); err != nil || runs < 1 {
			t.Fatalf("VC_SPARE_RUNS=%q: expected a number over 0", v)
		}
	}
	e := suite.New(t)
	e.NeedVM()
	p := podman{e.Configured(testenv.Settings{"hypervisor.spares": "1"})}
	defer func() { p.runtime("spare", "rm") }()
	p.runtime("spare", "create")
	seen := make(map[string]bool)
	for i := range runs {
		was := p.spare()
		if seen[was] {
			t.Fatalf("run %d: spare %s was not taken", i, was)
		}
		seen[was] = true
		p.gives(p.run(nil, "--rm", image, "sh", "-c", "echo hello; exit 3"), 3, "hello\n")
	}
	if last := p.spare(); seen[last] {
		t.Errorf("spare %s was not taken", last)
	}
	p.runtime("doctor")
}
