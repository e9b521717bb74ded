package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/virtcontainers"
)

// containerProcess is a container's own, for exec to start from.
func containerProcess() *specs.Process {
	return &specs.Process{
		Terminal:    true,
		ConsoleSize: &specs.Box{Width: 1, Height: 1},
		User:        specs.User{UID: 5, GID: 6, AdditionalGids: []uint32{7}},
		Args:        []string{"init"},
		Env:         []string{"PATH=/bin"},
		Cwd:         "/home",
		Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_KILL"}, Effective: []string{"CAP_KILL"},
			Permitted: []string{"CAP_KILL"}, Inheritable: []string{"CAP_CHOWN"},
		},
		NoNewPrivileges: true,
	}
}

func TestExecMerge(t *testing.T) {
	// Each test changes what a plain `exec ID date` gives.
	tests := []struct {
		flags string
		want  func(*specs.Process)
	}{
		{"", func(*specs.Process) {}},
		{"--cwd /x", func(p *specs.Process) { p.Cwd = "/x" }},
		{"--env A=1,2 --env=B= --env C=3=4", func(p *specs.Process) { p.Env = append(p.Env, "A=1,2", "B=", "C=3=4") }},
		{"--tty", func(p *specs.Process) { p.Terminal = true }},
		{"-t=false", func(*specs.Process) {}},
		{"-u 1000", func(p *specs.Process) { p.User.UID = 1000 }},
		{"--user=0:8", func(p *specs.Process) { p.User.UID, p.User.GID = 0, 8 }},
		{"-g 1 -g=4294967295", func(p *specs.Process) {
			p.User.AdditionalGids = append(p.User.AdditionalGids, 1, 4294967295)
		}},
		{"--process-label l --apparmor a", func(p *specs.Process) { p.SelinuxLabel, p.ApparmorProfile = "l", "a" }},
		{"--no-new-privs=false", func(p *specs.Process) { p.NoNewPrivileges = false }},
		{"-c CAP_BPF -c CAP_KILL", func(p *specs.Process) {
			both := []string{"CAP_KILL", "CAP_BPF"}
			p.Capabilities.Bounding, p.Capabilities.Effective, p.Capabilities.Permitted = both, both, both
		}},
		{"--cap CAP_CHOWN", func(p *specs.Process) {
			both := []string{"CAP_KILL", "CAP_CHOWN"}
			p.Capabilities.Bounding, p.Capabilities.Effective, p.Capabilities.Permitted = both, both, both
			p.Capabilities.Ambient = []string{"CAP_CHOWN"}
		}},
		{"--no-subreaper --cgroup /", func(*specs.Process) {}},
	}
	for _, tt := range tests {
		t.Run(tt.flags, func(t *testing.T) {
			rt := &fake{process: containerProcess()}
			args := append([]string{"exec"}, strings.Fields(tt.flags)...)
			out := execute(t, rt, append(args, "ID", "date", "-u", "--tty")...)
			want := containerProcess()
			want.Terminal, want.ConsoleSize = false, nil
			want.Args = []string{"date", "-u", "--tty"}
			tt.want(want)
			checkExec(t, rt, out, want)
		})
	}
	t.Run("no capabilities", func(t *testing.T) {
		rt := &fake{process: &specs.Process{Cwd: "/"}}
		out := execute(t, rt, "exec", "-c", "CAP_KILL", "ID", "sh")
		caps := []string{"CAP_KILL"}
		checkExec(t, rt, out, &specs.Process{Cwd: "/", Args: []string{"sh"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}})
	})
}

// checkExec wants one Exec, of the process want.
func checkExec(t *testing.T, rt *fake, out outcome, want *specs.Process) {
	t.Helper()
	if out.code != 0 || len(rt.calls) != 1 {
		t.Fatalf("%+v, calls %v", out, rt.calls)
	}
	var got specs.Process
	if err := json.Unmarshal(rt.calls[0].(virtcontainers.ExecOptions).Process, &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(&got, want) {
		t.Fatalf("process\n%+v, want\n%+v", &got, want)
	}
}

func TestExecFlagErrors(t *testing.T) {
	for line, want := range map[string]string{
		"-u x ID sh":          `uid \"x\": not a number`,
		"-u 1:x ID sh":        `gid \"x\": not a number`,
		"-u 1: ID sh":         `gid \"\": not a number`,
		"-u -1 ID sh":         `uid \"-1\": not a number`,
		"-u 4294967296 ID sh": `uid \"4294967296\": not a number`,
		"-g x ID sh":          `additional gid \"x\": not a number`,
	} {
		rt := &fake{}
		out := execute(t, rt, append([]string{"exec"}, strings.Fields(line)...)...)
		if out.code != 255 || len(rt.calls) > 0 || !strings.Contains(out.stderr, "exec failed: "+want) {
			t.Errorf("%s: %+v", line, out)
		}
	}
}

func TestExecProcessFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p")
	tests := []struct{ text, err string }{
		{`{"args":["a"],"cwd":"/","unknown":{"x":1}}`, ""},
		{``, "unexpected end of JSON input"},
		{"{\n\"args\":\n7}", "cannot unmarshal number"},
		{`null`, "process property must not be empty"},
		{`{"args":["a"]`, "unexpected end of JSON input"},
	}
	for _, tt := range tests {
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		rt := &fake{}
		out := execute(t, rt, "exec", "--process="+path, "ID")
		if tt.err == "" {
			checkExec(t, rt, out, &specs.Process{Args: []string{"a"}, Cwd: "/"})
			continue
		}
		if out.code != 255 || len(rt.calls) > 0 || strings.Count(out.stderr, "\n") != 1 || !strings.Contains(out.stderr, tt.err) {
			t.Errorf("%q: %+v", tt.text, out)
		}
	}
}

// TestExecConsoleSize: a foreground exec begins with the size of the caller's
// terminal.
func TestExecConsoleSize(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skipf("no pseudoterminal here: %v", err)
	}
	defer master.Close()
	if err := unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for flags, want := range map[string]*specs.Box{
		"-t":    {Width: 80, Height: 24},
		"-t -d": nil,
		"":      nil,
	} {
		rt := &fake{process: containerProcess()}
		p := &program{stdin: master, stdout: null, stderr: null}
		p.open = func(*program, settings) (verbs, error) { return rt, nil }
		args := append([]string{"vc-runtime", "exec"}, strings.Fields(flags)...)
		if code := p.run(append(args, "ID", "sh")); code != 0 || len(rt.calls) != 1 {
			t.Fatalf("%q: code %d, calls %v", flags, code, rt.calls)
		}
		var got specs.Process
		if err := json.Unmarshal(rt.calls[0].(virtcontainers.ExecOptions).Process, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.ConsoleSize, want) {
			t.Errorf("%q: size %v, want %v", flags, got.ConsoleSize, want)
		}
	}
}
