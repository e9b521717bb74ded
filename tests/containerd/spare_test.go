package containerd

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// criRoot is the runtime's --root of what the CRI plugin runs.
const criRoot = "/run/containerd/runc/k8s.io"

// spares are the machines that wait for pods, for the time of a test.
type spares struct{ *testenv.Env }

// spare is one of spare ls.
type spare struct {
	ID, State   string
	Monitor, VM int
}

// keepSpare has the runtime that containerd calls keep a spare, and waits until it
// is there.
func keepSpare(t *testing.T) *spares {
	e := suite.New(t)
	e.NeedVM()
	over := testenv.Settings{"hypervisor.spares": "1"}
	s := &spares{e.Configured(over)}
	s.Root = criRoot
	was, err := os.ReadFile(testenv.InstalledConfig)
	if err == nil {
		err = os.WriteFile(testenv.InstalledConfig, []byte(e.Read(s.Config)), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.OK("spare", "rm")
		if err := os.WriteFile(testenv.InstalledConfig, was, 0o644); err != nil {
			t.Error(err)
		}
	})
	s.OK("spare", "create")
	return s
}

func (s *spares) list() []spare {
	s.Helper()
	var all []spare
	if err := json.Unmarshal([]byte(s.OK("spare", "ls", "--format", "json").Stdout), &all); err != nil {
		s.Fatal(err)
	}
	return all
}

// only gives the spare that is there.
func (s *spares) only() spare {
	s.Helper()
	all := s.list()
	if len(all) != 1 || all[0].State != "ready" {
		s.Fatalf("spares: %+v, expected one that is ready", all)
	}
	return all[0]
}

// taken checks that the spare has become the machine of a sandbox.
func (s *spares) taken(was spare, sandbox string) {
	s.Helper()
	if now := s.SandboxPids(sandbox); now.Monitor != was.Monitor || now.VM != was.VM {
		s.Errorf("the sandbox has %v, the spare was %v", now, was)
	}
	for _, now := range s.list() {
		if now.ID == was.ID {
			s.Errorf("the spare is in the pool still: %v", now)
		}
	}
}
