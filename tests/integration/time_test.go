package integration

import (
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// clocks gives a container a time namespace with these offsets in seconds.
func clocks(offsets map[string]int64) testenv.Option {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
		s.Linux.TimeOffsets = make(map[string]specs.LinuxTimeOffset)
		for clock, secs := range offsets {
			s.Linux.TimeOffsets[clock] = specs.LinuxTimeOffset{Secs: secs, Nanosecs: 5}
		}
	}
}

// userNamespace maps all ids to themselves, so that the rootfs can be used.
func userNamespace(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	ids := []specs.LinuxIDMapping{{Size: 65536}}
	s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
}

const (
	showTime = "readlink /proc/self/ns/time; cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime; echo $$"
	// timeOffset is more than the uptime of any guest, in seconds.
	timeOffset = 1_000_000_000
)

// seenTime is what showTime has printed.
type seenTime struct {
	namespace, offsets string
	uptime             int
	pid                string
}

func timeOf(t testing.TB, out string) seenTime {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) < 4 {
		t.Fatalf("got %q", out)
	}
	n := len(lines)
	uptime, err := strconv.Atoi(lines[n-2])
	if err != nil {
		t.Fatalf("got %q: %v", out, err)
	}
	return seenTime{lines[0], strings.Join(strings.Fields(strings.Join(lines[1:n-2], " ")), " "), uptime, lines[n-1]}
}

// TestTimeNamespace: the container's clocks are the guest's and the offsets,
// from its first instruction on, and so are those of exec, which is in the same
// namespace.
func TestTimeNamespace(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	const offsets = "monotonic 7 5 boottime 1000000000 5"
	for _, tt := range []struct {
		name    string
		options []testenv.Option
	}{
		{"alone", nil},
		{"with a user namespace", []testenv.Option{userNamespace}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := e.With(t)
			shift := clocks(map[string]int64{"boottime": timeOffset, "monotonic": 7})
			c := e.Container(nil, append(tt.options, shift, testenv.Shell(showTime+"; "+ready))...)
			early := timeOf(t, e.OK("exec", c.ID, "sh", "-c", showTime).Stdout)
			c.Start()
			c.WaitFor("ready")
			late := timeOf(t, e.OK("exec", c.ID, "sh", "-c", showTime).Stdout)
			e.OK("update", "--memory", "100m", c.ID)
			e.OK("kill", c.ID, "KILL")
			c.Wait(exitLimit)
			init := timeOf(t, c.Stdout())
			for name, seen := range map[string]seenTime{"exec in a created container": early, "init": init, "exec": late} {
				if seen.offsets != offsets || seen.uptime < timeOffset {
					t.Errorf("%s: %+v", name, seen)
				}
			}
			if init.pid != "1" || init.uptime < early.uptime || late.uptime < init.uptime {
				t.Errorf("%+v, %+v, %+v", early, init, late)
			}
			if early.namespace != init.namespace || late.namespace != init.namespace {
				t.Errorf("namespaces %s, %s, %s", early.namespace, init.namespace, late.namespace)
			}
			c.Delete()
		})
	}
	t.Run("without offsets", func(t *testing.T) {
		e := e.With(t)
		c := e.Started(nil, clocks(nil), testenv.Shell(showTime+"; "+ready))
		c.WaitFor("ready")
		seen := timeOf(t, e.OK("exec", c.ID, "sh", "-c", showTime).Stdout)
		if seen.offsets != "monotonic 0 0 boottime 0 0" || seen.uptime >= timeOffset {
			t.Errorf("%+v", seen)
		}
		c.DeleteForced()
	})
	t.Run("before the boot", func(t *testing.T) {
		e := e.With(t)
		b := e.Bundle(clocks(map[string]int64{"boottime": -timeOffset}))
		e.Fails("linux.timeOffsets: a clock would start before 0", "create", "--bundle", b.Dir, e.ID())
	})
}
