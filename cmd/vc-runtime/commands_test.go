package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
	"github.com/vc-runtime/vc-runtime/virtcontainers/signals"
)

// TestCallers: the command lines of conmon, CRI-O, podman, containerd and
// go-runc, word for word, and what the runtime is asked.
func TestCallers(t *testing.T) {
	processFile := filepath.Join(t.TempDir(), "process.json")
	if err := os.WriteFile(processFile, []byte(`{"args":["date"],"cwd":"/","terminal":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	resourcesFile := filepath.Join(t.TempDir(), "resources.json")
	if err := os.WriteFile(resourcesFile, []byte(`{"memory":{"limit":7}} `), 0o600); err != nil {
		t.Fatal(err)
	}
	process := mustJSON(t, specs.Process{Args: []string{"date"}, Cwd: "/", Terminal: true})
	create := virtcontainers.CreateOptions{ID: "ID", Bundle: "/b", PidFile: "/b/pid"}
	withConsole, withSystemd, withFDs := create, create, create
	withConsole.ConsoleSocket = "/s"
	withSystemd.SystemdCgroup = true
	withFDs.PreserveFDs = 2
	execDetached := virtcontainers.ExecOptions{ID: "ID", Process: process, Detach: true, PidFile: "/b/pid"}
	execConsole := execDetached
	execConsole.ConsoleSocket = "/s"

	tests := []struct {
		caller, line string
		want         any
	}{
		{"conmon", "--systemd-cgroup --root=/r create --bundle /b --pid-file /b/pid ID", withSystemd},
		{"conmon", "--root=/r create --bundle /b --pid-file /b/pid --no-pivot --no-new-keyring --console-socket /s ID", withConsole},
		{"conmon", "create --bundle /b --pid-file /b/pid --preserve-fds 2 ID", withFDs},
		{"conmon", "--log-format=json --log LOG create --bundle /b --pid-file /b/pid ID", create},
		{"conmon", "--root=/r exec --pid-file /b/pid --process PROC --detach ID", execDetached},
		{"conmon", "exec --pid-file /b/pid --process PROC --detach --console-socket /s ID", execConsole},

		{"CRI-O", "--root /r start ID", idCall{"start", "ID"}},
		{"CRI-O", "--root /r --systemd-cgroup state ID", idCall{"state", "ID"}},
		{"CRI-O", "--root /r kill ID 15", killCall{"ID", unix.SIGTERM, false}},
		{"CRI-O", "--root /r kill ID KILL", killCall{"ID", unix.SIGKILL, false}},
		{"CRI-O", "--root /r kill -a ID 9", killCall{"ID", unix.SIGKILL, true}},
		{"CRI-O", "--root /r delete --force ID", deleteCall{"ID", true}},
		{"CRI-O", "--root /r pause ID", idCall{"pause", "ID"}},
		{"CRI-O", "--root /r resume ID", idCall{"resume", "ID"}},
		{"CRI-O", "--root /r exec --process PROC ID", virtcontainers.ExecOptions{ID: "ID", Process: process}},

		{"podman", "start ID", idCall{"start", "ID"}},
		{"podman", "kill ID 9", killCall{"ID", unix.SIGKILL, false}},
		{"podman", "kill --all ID 15", killCall{"ID", unix.SIGTERM, true}},
		{"podman", "delete --force ID", deleteCall{"ID", true}},
		{"podman", "state ID", idCall{"state", "ID"}},

		{"containerd", "--root /r/k8s.io --log LOG --log-format json --systemd-cgroup create --bundle /b --pid-file /b/pid ID", withSystemd},
		{"containerd", "--root /r --log LOG --log-format json create --bundle /b --pid-file /b/pid --console-socket /s --no-pivot --no-new-keyring ID", withConsole},
		{"containerd", "--root /r --log LOG --log-format json exec --process PROC --console-socket /s --detach --pid-file /b/pid ID", execConsole},
		{"containerd", "--root /r --log LOG --log-format json kill --all ID 9", killCall{"ID", unix.SIGKILL, true}},
		{"containerd", "--root /r --log LOG --log-format json delete ID", deleteCall{"ID", false}},
		{"containerd", "--root /r --log LOG --log-format json ps --format json ID", idCall{"ps", "ID"}},
		{"go-runc", "--debug --rootless=false list --format=json", idCall{"list", ""}},
		{"go-runc", "run --bundle /b --pid-file /b/pid --detach ID", virtcontainers.RunOptions{CreateOptions: create, Detach: true}},

		{"podman", "update --resources=RESOURCES ID", updateCall{"ID", `{"memory":{"limit":7}}`}},
		{"go-runc", "--log LOG --log-format json events --stats ID", idCall{"stats", "ID"}},
		{"go-runc", "--log LOG --log-format json events --interval=3s ID", eventsCall{"ID", 3 * time.Second}},
		{"a user", "events ID", eventsCall{"ID", 5 * time.Second}},
		{"a user", "update -r RESOURCES --memory 3 ID", updateCall{"ID", `{"memory":{"limit":7}}`}},
		{"a user", "update ID", updateCall{"ID", `{"memory":{},"cpu":{}}`}},
		{"a user", "update --memory 10m --memory-swap -1 --memory-reservation 1024 --kernel-memory 5 ID",
			updateCall{"ID", `{"memory":{"limit":10485760,"reservation":1024,"swap":-1},"cpu":{}}`}},
		{"a user", "update --cpu-quota -1 --cpu-period 1000 --cpu-share 512 --cpu-burst 3 --cpu-idle 1 --cpuset-cpus 0-1 --cpuset-mems 0 --cpu-rt-period 7 --cpu-rt-runtime 8 ID",
			updateCall{"ID", `{"memory":{},"cpu":{"shares":512,"quota":-1,"burst":3,"period":1000,"realtimeRuntime":8,"realtimePeriod":7,"cpus":"0-1","mems":"0","idle":1}}`}},
		{"a user", "update --pids-limit 20 --blkio-weight 100 ID",
			updateCall{"ID", `{"memory":{},"cpu":{},"pids":{"limit":20},"blockIO":{"weight":100}}`}},

		{"a user", "run -b /b -d --keep --no-subreaper ID", virtcontainers.RunOptions{
			CreateOptions: virtcontainers.CreateOptions{ID: "ID", Bundle: "/b"}, Detach: true, Keep: true, NoSubreaper: true}},
		{"a user", "create ID --pid-file=/b/pid -b=/b", create},
		{"a user", "delete ID -f", deleteCall{"ID", true}},
		{"a user", "delete -- ID", deleteCall{"ID", false}},
		{"a user", "kill ID", killCall{"ID", signals.Default, false}},
		{"a user", "kill help sigusr1", killCall{"help", unix.SIGUSR1, false}},
		{"a user", "kill ID 0", killCall{"ID", 0, false}},
		{"a user", "ps -f json ID -ax", idCall{"ps", "ID"}},
		{"a container called help", "state help", idCall{"state", "help"}},
	}
	for _, tt := range tests {
		t.Run(tt.caller+": "+tt.line, func(t *testing.T) {
			line := strings.ReplaceAll(tt.line, "PROC", processFile)
			line = strings.ReplaceAll(line, "RESOURCES", resourcesFile)
			line = strings.ReplaceAll(line, "LOG", filepath.Join(t.TempDir(), "log.json"))
			rt := &fake{state: &virtcontainers.State{}}
			out := execute(t, rt, strings.Fields(line)...)
			if out.code != 0 || out.stderr != "" {
				t.Fatalf("code %d, stderr %q", out.code, out.stderr)
			}
			if want := []any{tt.want}; !reflect.DeepEqual(rt.calls, want) {
				t.Fatalf("calls\n%+v, want\n%+v", rt.calls, want)
			}
			if strings.Contains(line, "--root") && !strings.Contains(line, "--rootless") &&
				!strings.HasPrefix(out.settings.root, "/r") {
				t.Errorf("root %q", out.settings.root)
			}
		})
	}
}

func mustJSON(t *testing.T, v specs.Process) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRelativePaths(t *testing.T) {
	t.Chdir(t.TempDir())
	cwd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	rt := &fake{}
	execute(t, rt, "create", "--pid-file", "pid", "--console-socket", "../s", "ID")
	execute(t, rt, "create", "-b", "b", "ID")
	want := []any{
		virtcontainers.CreateOptions{ID: "ID", Bundle: cwd, PidFile: cwd + "/pid", ConsoleSocket: filepath.Join(cwd, "../s")},
		virtcontainers.CreateOptions{ID: "ID", Bundle: cwd + "/b"},
	}
	if !reflect.DeepEqual(rt.calls, want) {
		t.Fatalf("calls\n%+v, want\n%+v", rt.calls, want)
	}
}

func TestUsageErrors(t *testing.T) {
	tests := []struct {
		line, want string
		helped     bool // the command's help goes to stdout
	}{
		{"state", `vc-runtime: \"state\" requires exactly 1 argument(s)`, true},
		{"state a b", `vc-runtime: \"state\" requires exactly 1 argument(s)`, true},
		{"state a --bogus", `vc-runtime: \"state\" requires exactly 1 argument(s)`, true},
		{"create x --bundle", `vc-runtime: \"create\" requires exactly 1 argument(s)`, true},
		{"kill", `vc-runtime: \"kill\" requires a minimum of 1 argument(s)`, true},
		{"kill a 9 c", `vc-runtime: \"kill\" requires a maximum of 2 argument(s)`, true},
		{"exec", `vc-runtime: \"exec\" requires a minimum of 1 argument(s)`, true},
		{"ps", `vc-runtime: \"ps\" requires a minimum of 1 argument(s)`, true},
		{"list x", `vc-runtime: \"list\" requires exactly 0 argument(s)`, true},
		{"delete --bogus x", `flag provided but not defined: -bogus`, true},
		{"create --bundle", `flag needs an argument: -bundle`, true},
		{"create --preserve-fds x ID", `invalid value \"x\" for flag -preserve-fds: parse error`, true},
		{"create --preserve-fds -1 ID", `invalid value \"-1\" for flag -preserve-fds: parse error`, true},
		{"kill x bogus", `unknown signal \"bogus\"`, false},
		{"kill x -9", `unknown signal \"-9\"`, false},
		{"list -f xml", `invalid format option`, false},
		{"ps -f xml x", `invalid format option`, false},
		{"spec --rootless", `rootless containers are not supported`, false},
		{"events --interval 0s ID", `duration interval must be greater than 0`, false},
		{"events --interval=-1s ID", `duration interval must be greater than 0`, false},
		{"events", `vc-runtime: \"events\" requires exactly 1 argument(s)`, true},
		{"update --memory lots ID", `invalid value for memory: invalid size: 'lots'`, false},
		{"update --cpu-share -3 ID", `invalid value for cpu-share: strconv.ParseUint: parsing \"-3\": invalid syntax`, false},
		{"update --blkio-weight 70000 ID", `invalid value for blkio-weight: 70000: expected 10 to 1000`, false},
		{"update --l3-cache-schema x ID", `--l3-cache-schema: Intel RDT is not available`, false},
		{"update -r /nowhere/r ID", `open /nowhere/r: no such file or directory`, false},
		{"update -r /dev/null ID", `read the resources: EOF`, false},
		{"nothing", `No help topic for 'nothing'`, false},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			rt := &fake{}
			out := execute(t, rt, strings.Fields(tt.line)...)
			want := 1
			if tt.line == "nothing" {
				want = 3
			}
			if out.code != want || len(rt.calls) > 0 {
				t.Errorf("code %d, calls %v", out.code, rt.calls)
			}
			if strings.Count(out.stderr, "\n") != 1 || !strings.Contains(out.stderr, `msg="`+tt.want) {
				t.Errorf("stderr %q", out.stderr)
			}
			if got := strings.HasPrefix(out.stdout, "Incorrect Usage"); got != tt.helped || !tt.helped && out.stdout != "" {
				t.Errorf("stdout %q", out.stdout)
			}
		})
	}
}

func TestExitCodes(t *testing.T) {
	// A hook's failure, which has an exit code of its own.
	hook := exec.Command("/bin/sh", "-c", "exit 42").Run()
	tests := []struct {
		line string
		rt   fake
		code int
		text string
	}{
		{"run -b /b ID", fake{code: 137}, 137, ""},
		{"run -d -b /b ID", fake{}, 0, ""},
		{"run -b /b ID", fake{code: 7, err: errors.New("no kernel")}, 1, "vc-runtime run failed: no kernel"},
		{"create ID", fake{err: fmt.Errorf("prestart hook: %w", hook)}, 1, "vc-runtime create failed: prestart hook: exit status 42"},
		{"start ID", fake{err: hook}, 1, "exit status 42"},
		{"exec ID false", fake{code: 1}, 1, ""},
		{"exec ID x", fake{code: 127}, 127, ""},
		{"exec -d ID x", fake{}, 0, ""},
		{"exec ID x", fake{code: 3, err: errors.New("container does not exist")}, 255, "exec failed: container does not exist"},
		{"exec ID", fake{}, 255, "exec failed: process args cannot be empty"},
		{"exec -p /nowhere/p ID", fake{}, 255, "exec failed: open /nowhere/p: no such file or directory"},
		{"exec --cgroup /x ID sh", fake{}, 255, "exec failed: --cgroup: only '/' is supported"},
		{"delete ID", fake{err: errors.New("container does not exist")}, 1, "container does not exist"},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			out := execute(t, &tt.rt, strings.Fields(tt.line)...)
			if out.code != tt.code || !strings.Contains(out.stderr, tt.text) || (tt.text == "") != (out.stderr == "") {
				t.Fatalf("%+v", out)
			}
		})
	}
}

func TestState(t *testing.T) {
	rt := &fake{state: &virtcontainers.State{
		OCIVersion: "1.0.2", ID: "ID", Status: "stopped", Bundle: "/b", Rootfs: "/b/rootfs",
		Created: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Annotations: map[string]string{"k": "v"},
	}}
	out := execute(t, rt, "state", "ID")
	want := `{
  "ociVersion": "1.0.2",
  "id": "ID",
  "pid": 0,
  "status": "stopped",
  "bundle": "/b",
  "rootfs": "/b/rootfs",
  "created": "2026-01-02T03:04:05.000000006Z",
  "annotations": {
    "k": "v"
  },
  "owner": ""
}
`
	if out.stdout != want || out.stderr != "" {
		t.Fatalf("%+v", out)
	}
}

func TestList(t *testing.T) {
	rt := &fake{states: []virtcontainers.State{
		{ID: "a", Pid: 12, Status: "running", Bundle: "/b", Created: time.Unix(0, 0).UTC(), Owner: "root"},
		{ID: "a-longer-name", Status: "stopped", Bundle: "/c", Created: time.Unix(0, 0).UTC(), Owner: "root"},
	}}
	table := `ID              PID         STATUS      BUNDLE      CREATED                OWNER
a               12          running     /b          1970-01-01T00:00:00Z   root
a-longer-name   0           stopped     /c          1970-01-01T00:00:00Z   root
`
	if out := execute(t, rt, "list"); out.stdout != table {
		t.Errorf("table\n%s", out.stdout)
	}
	for _, line := range []string{"list -q", "list --quiet --format json"} {
		if out := execute(t, rt, strings.Fields(line)...); out.stdout != "a\na-longer-name\n" {
			t.Errorf("%s: %q", line, out.stdout)
		}
	}
	var states []virtcontainers.State
	out := execute(t, rt, "list", "-f", "json")
	if err := json.Unmarshal([]byte(out.stdout), &states); err != nil || !reflect.DeepEqual(states, rt.states) {
		t.Errorf("JSON %q: %v", out.stdout, err)
	}
	if out := execute(t, &fake{}, "list", "--format=json"); out.stdout != "[]\n" {
		t.Errorf("no container: %q", out.stdout)
	}
}

func TestPs(t *testing.T) {
	self := os.Getpid()
	rt := &fake{processes: []int{self}}
	t.Setenv("PATH", "") // podman gives none
	for _, line := range []string{"ps ID", "ps ID -o pid,args", "ps --format table ID aux"} {
		out := execute(t, rt, strings.Fields(line)...)
		lines := strings.Split(strings.TrimSpace(out.stdout), "\n")
		if out.code != 0 || len(lines) != 2 || !strings.Contains(lines[0], "PID") || !strings.Contains(lines[1], strconv.Itoa(self)) {
			t.Errorf("%s: %+v", line, out)
		}
	}
	if out := execute(t, rt, "ps", "-f", "json", "ID"); out.stdout != fmt.Sprintf("[%d]\n", self) {
		t.Errorf("JSON %q", out.stdout)
	}
	if out := execute(t, &fake{}, "ps", "--format=json", "ID"); out.stdout != "[]\n" {
		t.Errorf("no process: %q", out.stdout)
	}
	for line, want := range map[string]string{
		"ps ID -o args":      "couldn't find PID field in ps output",
		"ps ID --no-such-xx": "ps: exit status 1: error:",
	} {
		out := execute(t, rt, strings.Fields(line)...)
		if out.code != 1 || strings.Count(out.stderr, "\n") != 1 || !strings.Contains(out.stderr, want) {
			t.Errorf("%s: %+v", line, out)
		}
	}
}

func TestSpec(t *testing.T) {
	dir := t.TempDir()
	if out := executeAs(t, 1000, &fake{}, "spec", "-b", dir); out.code != 0 || out.stdout+out.stderr != "" {
		t.Fatalf("%+v", out)
	}
	path := filepath.Join(dir, "config.json")
	text := read(t, path)
	var spec specs.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil || spec.Process == nil {
		t.Fatalf("%v: %s", err, text)
	}
	out := executeAs(t, 1000, &fake{}, "spec", "--bundle="+dir)
	if out.code != 1 || !strings.Contains(out.stderr, "File config.json exists. Remove it first") {
		t.Errorf("%+v", out)
	}
	if read(t, path) != text {
		t.Error("the file was touched")
	}
	t.Chdir(t.TempDir())
	execute(t, &fake{}, "spec")
	if read(t, "config.json") != text {
		t.Error("another specification in the current folder")
	}
	if out := execute(t, &fake{}, "spec", "-b", "nowhere"); out.code != 1 || !strings.Contains(out.stderr, "no such file or directory") {
		t.Errorf("%+v", out)
	}
}

// TestListenFDs: descriptors for the container are refused, those for somebody
// else are none of ours.
func TestListenFDs(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, tt := range []struct {
		fds, pid string
		refused  bool
	}{{"", "", false}, {"0", self, false}, {"2", "1", false}, {"2", "", false}, {"2", self, true}, {"x", self, true}} {
		err := checkListenFDs(func(name string) string {
			return map[string]string{"LISTEN_FDS": tt.fds, "LISTEN_PID": tt.pid}[name]
		})
		if (err != nil) != tt.refused {
			t.Errorf("LISTEN_FDS=%s LISTEN_PID=%s: %v", tt.fds, tt.pid, err)
		}
	}
}
