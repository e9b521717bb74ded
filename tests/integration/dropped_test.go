package integration

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestDropped: what a bundle, a process of exec or an update asks for and does not
// get is in the log once, with the reason, where somebody wants to know (--debug),
// and nowhere else.
func TestDropped(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	process := func(p *specs.Process) {
		p.ApparmorProfile, p.SelinuxLabel = "some-profile", "system_u:system_r:x_t:s0"
	}
	folders(e, "data")
	b := e.Bundle(func(s *specs.Spec) {
		process(s.Process)
		s.Linux.IntelRdt = &specs.LinuxIntelRdt{ClosID: "x"}
		s.Linux.Resources.Memory = &specs.LinuxMemory{Swappiness: pointer(uint64(10))}
	}, testenv.Bind(e.Path("data"), "/data", "rshared"))
	id := e.ID()
	// reported gives the lines about it of the log of a command, without time and level.
	reported := func(debug bool, args ...string) []string {
		t.Helper()
		log := e.Write("log", "")
		flags := []string{"--log", log, "--log-format", "json"}
		if debug {
			flags = append(flags, "--debug")
		}
		if res := e.Call(testenv.Command{Args: append(flags, args...), Null: true}); res.Code != 0 {
			t.Fatal(res)
		}
		var found []string
		for line := range strings.Lines(e.Read(log)) {
			var l struct{ Msg string }
			if err := json.Unmarshal([]byte(line), &l); err != nil {
				t.Fatalf("%v: %s", err, line)
			}
			if strings.Contains(l.Msg, "not applied") {
				found = append(found, l.Msg)
			}
		}
		slices.Sort(found)
		return found
	}
	const apparmor = "process.apparmorProfile is not applied: the guest's kernel has no AppArmor"
	const selinux = "process.selinuxLabel is not applied: the guest's kernel has no SELinux"
	create := []string{"create", "--bundle", b.Dir, id}
	e.Equal("reports of create", strings.Join(reported(true, create...), "\n"), strings.Join([]string{
		"linux.intelRdt is not applied: the VM's threads are not in a resource control group",
		"linux.resources.memory.swappiness is not applied: has no counterpart in cgroup v2, which the guest uses",
		"mounts[5].options is not applied: mounts made in the guest do not reach the host: shared is slave there",
		apparmor, selinux,
	}, "\n"))
	e.OK("delete", "--force", id)
	e.Equal("reports without --debug", len(reported(false, create...)), 0)

	p := *b.Spec.Process
	process(&p)
	p.Args = []string{"true"}
	e.Equal("reports of exec", strings.Join(reported(true, "exec", "--process", e.Write("process.json", jsonOf(t, p)), id), "\n"), apparmor+"\n"+selinux)
	update := reported(true, "update", "--resources", e.Write("r.json", `{"memory":{"swappiness":10},"cpu":{"realtimeRuntime":1000}}`), id)
	e.Equal("reports of update", strings.Join(update, "\n"), strings.Join([]string{
		"linux.resources.cpu.realtimeRuntime is not applied: has no counterpart in cgroup v2, which the guest uses",
		"linux.resources.memory.swappiness is not applied: has no counterpart in cgroup v2, which the guest uses",
	}, "\n"))
	e.OK("delete", "--force", id)
}

func jsonOf(t testing.TB, v specs.Process) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
