package server

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// fakeEnv makes the test binary play crun.
const fakeEnv = "VC_FAKE_CRUN"

func TestMain(m *testing.M) {
	if os.Getenv(fakeEnv) != "" {
		os.Exit(fakeCrun(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fakeCrun knows create and exec: processes without any isolation. The pid of
// each is noted for the fake cgroup.
func fakeCrun(args []string) int {
	flags := map[string]string{}
	var words []string
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(strings.TrimPrefix(args[i], "--"), "=")
		switch {
		case !strings.HasPrefix(args[i], "--"):
			words = append(words, args[i])
		case ok || name == "detach":
			flags[name] = value
		default:
			i++
			flags[name] = args[i]
		}
	}
	op, id := words[0], words[1]
	var config struct {
		Process struct{ Args []string }
		Args    []string
	}
	file := flags["process"]
	if op == "create" {
		file = filepath.Join(flags["bundle"], "config.json")
	}
	b, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(b, &config) != nil {
		return 1
	}
	argv := append(config.Args, config.Process.Args...)
	if _, err := exec.LookPath(argv[0]); err != nil {
		msg := fmt.Sprintf("executable file `%s` not found in $PATH: No such file or directory", argv[0])
		line, _ := json.Marshal(map[string]string{"msg": msg, "level": "error"})
		os.WriteFile(flags["log"], line, 0o600)
		return 1
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	if op == "create" {
		state := filepath.Join(flags["root"], id)
		fifo := filepath.Join(state, "exec.fifo")
		if os.Mkdir(state, 0o700) != nil || syscall.Mkfifo(fifo, 0o600) != nil {
			return 1
		}
		f, err := os.OpenFile(fifo, os.O_RDWR, 0)
		if err != nil {
			return 1
		}
		cmd = exec.Command("/bin/sh", append([]string{"-c", `head -c 1 <&3 >/dev/null; exec "$@" 3<&-`, "sh"}, argv...)...)
		cmd.ExtraFiles = []*os.File{f}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if cmd.Start() != nil {
		return 1
	}
	pids, err := os.OpenFile(flags["root"]+".pids", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 1
	}
	fmt.Fprintln(pids, cmd.Process.Pid)
	if os.WriteFile(flags["pid-file"], fmt.Appendf(nil, "%d", cmd.Process.Pid), 0o600) != nil {
		return 1
	}
	return 0
}
