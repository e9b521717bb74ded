package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestList lists containers, and only those.
func TestList(t *testing.T) {
	e := suite.New(t)
	e.Equal("list without containers", strings.TrimSpace(e.OK("list", "--quiet").Stdout), "")
	c := e.Started(nil)
	// What is not a container's record is skipped.
	if err := os.MkdirAll(filepath.Join(e.Root, "foreign"), 0o755); err != nil {
		t.Fatal(err)
	}
	res := e.OK("list", "--format", "json")
	var states []testenv.State
	if err := json.Unmarshal([]byte(res.Stdout), &states); err != nil {
		t.Fatalf("%v: %s", err, res)
	}
	if len(states) != 1 || states[0].ID != c.ID || states[0].Status != "running" || states[0].Pid != c.Pid {
		t.Errorf("list: %s", res)
	}
	table := e.OK("list").Stdout
	for _, want := range []string{"ID ", "PID ", "STATUS ", "BUNDLE ", "CREATED ", "OWNER", c.ID, "running", c.Bundle.Dir} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in the table: %s", want, table)
		}
	}
	e.Equal("list --quiet", e.OK("list", "-q").Stdout, c.ID+"\n")
	c.DeleteForced()
}

// TestSpec writes a bundle's configuration once.
func TestSpec(t *testing.T) {
	e := suite.New(t)
	e.OK("spec", "--bundle", e.Dir)
	var spec struct {
		OCIVersion string
		Process    struct{ Args []string }
	}
	if err := json.Unmarshal([]byte(e.Read(e.Path("config.json"))), &spec); err != nil {
		t.Fatal(err)
	}
	if spec.OCIVersion == "" || !slices.Equal(spec.Process.Args, []string{"sh"}) {
		t.Errorf("config.json: %+v", spec)
	}
	e.Fails("File config.json exists. Remove it first", "spec", "--bundle", e.Dir)
}

// TestVersion is run by its callers with stdout and stderr read together.
func TestVersion(t *testing.T) {
	e := suite.New(t)
	res := e.Run(t, testenv.Command{Path: e.Runtime, Args: []string{"--version"}})
	lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
	name := filepath.Base(e.Runtime)
	if res.Code != 0 || res.Stderr != "" || !strings.HasPrefix(lines[0], name+" version ") {
		t.Fatal(res)
	}
	for _, key := range []string{"commit: ", "spec: ", "go: "} {
		if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, key) }) {
			t.Errorf("no line %q: %s", key, res)
		}
	}
}

func TestFeatures(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	res := e.Run(t, testenv.Command{Path: e.Runtime, Args: []string{"features"}})
	var f struct {
		OCIVersionMin, OCIVersionMax string
		MountOptions                 []string
	}
	if err := json.Unmarshal([]byte(res.Stdout), &f); err != nil {
		t.Fatalf("%v: %s", err, res)
	}
	if res.Code != 0 || res.Stderr != "" || f.OCIVersionMin == "" || f.OCIVersionMax == "" || len(f.MountOptions) == 0 {
		t.Error(res)
	}
	// CRI-O takes the help of checkpoint for the support of checkpoints.
	if res := e.Do("checkpoint", "--help"); res.Code == 0 {
		t.Error(res)
	}
}

// TestPause freezes and thaws a container.
func TestPause(t *testing.T) {
	e := suite.New(t)
	e.NeedVM() // runc needs the freezer cgroup of this machine
	c := e.Started(nil, testenv.Shell("i=0; touch /ready; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"))
	c.WaitFor("count")
	e.Fails("", "resume", c.ID)
	e.OK("pause", c.ID)
	e.IsStatus(c.ID, "paused")
	e.Fails("", "pause", c.ID)
	if res := e.Do("exec", c.ID, "true"); res.Code != 255 {
		t.Errorf("exec in a paused container: %s", res)
	}
	// It is not refused, and runs when the container does.
	paused := begin(e, testenv.Command{Args: []string{"exec", "--ignore-paused", c.ID, "echo", "ran"}})
	e.OK("resume", c.ID)
	if res := paused(); res.Code != 0 || res.Stdout != "ran\n" {
		t.Errorf("exec --ignore-paused: %s", res)
	}
	e.IsStatus(c.ID, "running")
	was := e.Read(filepath.Join(c.Bundle.Rootfs, "count"))
	testenv.Eventually(t, sluggish, func() error {
		if now := e.Read(filepath.Join(c.Bundle.Rootfs, "count")); now == was {
			return os.ErrDeadlineExceeded
		}
		return nil
	})
	e.OK("pause", c.ID)
	e.OK("kill", c.ID, "KILL") // thaws
	stopped(t, c)
	c.Delete()
}

// TestHangExplained: a program that has not ended in time is not killed before
// it was looked into: what the monitor does, what the guest's processes do and
// what its kernel has said.
func TestHangExplained(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	c := e.Started(nil, testenv.Args("sleep", "1234567"))
	e.OK("exec", c.ID, "sh", "-c", `until [ "$(cat /proc/1/comm)" = sleep ]; do sleep 0.1; done`)
	_, err := suite.Exec(testenv.Command{
		Path: "/bin/sh", Args: []string{"-c", "exec sleep 7654321"}, Limit: 10 * time.Millisecond,
	})
	if err == nil {
		t.Fatal("the time-out is no error")
	}
	for _, want := range []string{
		"still running after 10ms",
		"sleep 7654321",
		": vc-runtime shim " + e.Root,
		"container " + c.ID + ": shim " + strconv.Itoa(c.Pid) + "; process ended: false",
		"sandbox.(*container).supervise",
		"guest's console:",
		`"sleep 1234567"`,
		"[<0>] ",
		"kernel's log:\n",
		"server.(*Server).Serve",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
	e.IsStatus(c.ID, "running") // it was only looked at
}
