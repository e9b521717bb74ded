package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tool is something that pulls images.
type tool struct {
	name         string
	pull, remove func(image string) [][]string // command lines, one after the other
	daemon       *os.Process                   // that does the work, if there is one
}

// newTools makes the tools, each with a store of its own.
func newTools(dir, runtime string) (tools []*tool, stop func(), err error) {
	config := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "[image]\nroot = %q\n", dir+"/vc"), 0o600); err != nil {
		return nil, nil, err
	}
	at := func(image string) string { return registryAddr + "/" + image + ":1" }
	vc := []string{runtime, "--config", config, "image"}
	tools = append(tools, &tool{
		name:   "vc-runtime",
		pull:   func(i string) [][]string { return [][]string{append(vc[:4:4], "pull", "-q", at(i))} },
		remove: func(i string) [][]string { return [][]string{append(vc[:4:4], "rm", at(i))} },
	})
	stop = func() {}
	if _, err := exec.LookPath("containerd"); err == nil {
		t, err := containerd(dir, at)
		if err != nil {
			return nil, nil, err
		}
		tools = append(tools, t)
		stop = func() {
			t.daemon.Signal(unix.SIGTERM)
			t.daemon.Wait()
		}
	}
	if _, err := exec.LookPath("podman"); err == nil {
		podman := []string{"podman", "--root", dir + "/podman", "--runroot", dir + "/podman-run", "--storage-driver", "overlay"}
		tools = append(tools, &tool{
			name: "podman",
			pull: func(i string) [][]string {
				return [][]string{append(podman[:7:7], "pull", "-q", "--tls-verify=false", at(i))}
			},
			remove: func(i string) [][]string { return [][]string{append(podman[:7:7], "rmi", "-f", at(i))} },
		})
	}
	if _, err := exec.LookPath("umoci"); err == nil {
		layout, bundle := dir+"/layout", dir+"/bundle"
		tools = append(tools, &tool{
			name: "umoci",
			pull: func(i string) [][]string {
				return [][]string{
					{"skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + at(i), "oci:" + layout + ":1"},
					{"umoci", "unpack", "--image", layout + ":1", bundle},
				}
			},
			remove: func(string) [][]string { return [][]string{{"rm", "-rf", layout, bundle}} },
		})
	}
	return tools, stop, nil
}

// containerd starts one of our own.
func containerd(dir string, at func(string) string) (*tool, error) {
	config, socket := filepath.Join(dir, "containerd.toml"), filepath.Join(dir, "containerd.sock")
	text := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		dir+"/containerd", dir+"/containerd-run", socket)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := startDaemon("containerd successfully booted", "containerd", "--config", config)
	if err != nil {
		return nil, err
	}
	ctr := []string{"ctr", "-a", socket}
	return &tool{
		name: "containerd",
		pull: func(i string) [][]string {
			return [][]string{append(ctr[:3:3], "images", "pull", "--plain-http", at(i))}
		},
		remove: func(i string) [][]string { return [][]string{append(ctr[:3:3], "images", "rm", "--sync", at(i))} },
		daemon: p,
	}, nil
}

// run runs the command lines, and sums up what their processes have used.
func (t *tool) run(commands func(string) [][]string, image string) (result, error) {
	var r result
	for _, args := range commands(image) {
		cmd := exec.Command(args[0], args[1:]...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Run(); err != nil {
			return r, fmt.Errorf("%q: %w: %s", args, err, stderr.Bytes())
		}
		used, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
		if !ok {
			return r, errors.New("no resource usage")
		}
		r.cpu += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		r.memory = max(r.memory, float64(used.Maxrss)/1e3) // kB
		r.written += float64(used.Oublock) * 512 / 1e6     // blocks of 512 bytes
	}
	return r, nil
}

// usage is what the daemon, and the children that it has waited for, have used
// so far. Its peak of memory begins anew.
func (t *tool) usage() (result, error) {
	if t.daemon == nil {
		return result{}, nil
	}
	proc := "/proc/" + strconv.Itoa(t.daemon.Pid)
	stat, err := os.ReadFile(proc + "/stat")
	if err != nil {
		return result{}, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var r result
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime (proc(5)), in ticks of 10 ms
		n, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return result{}, err
		}
		r.cpu += n / 100
	}
	if r.written, err = field(proc+"/io", "write_bytes:"); err != nil {
		return result{}, err
	}
	if r.memory, err = field(proc+"/status", "VmHWM:"); err != nil {
		return result{}, err
	}
	r.written, r.memory = r.written/1e6, r.memory/1e3
	return r, os.WriteFile(proc+"/clear_refs", []byte("5"), 0)
}

// ownPeak makes our own peak of memory begin anew: a process that we start has it from
// the beginning, as it has our memory until it executes its program.
func ownPeak() error {
	debug.FreeOSMemory()
	return os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
}

func field(path, name string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == name {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("%s: no %s", path, name)
}
