package network

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	fixture "github.com/vc-runtime/vc-runtime/tests/testenv/machine"
)

// slots is how many devices can be plugged.
const slots = 4

// machine is a guest with its agent.
type machine struct {
	hypervisor.VM
	*client.Client
}

// Close and Done are of both.
func (m machine) Close() error          { return m.Client.Close() }
func (m machine) Done() <-chan struct{} { return m.VM.Done() }

// boot starts a guest; the test is skipped where there is no image of one.
func boot(t *testing.T, cpus int) machine {
	t.Helper()
	cfg, image := fixture.Config(t)
	cfg.CPUs, cfg.MaxCPUs, cfg.MaxMemoryMiB, cfg.HotplugSlots = cpus, cpus, cfg.MemoryMiB, slots
	begun := time.Now()
	vm, err := qemu.Driver{}.Start(limit(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", vm.Console())
		}
		vm.Kill()
	})
	guest, err := client.Dial(limit(t), vm.Channel(), client.Options{ImageID: image.ImageID})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { guest.Close() })
	t.Logf("boot: %v, the guest's clock at hello: %d ms", time.Since(begun).Round(time.Millisecond), guest.Hello().UptimeMs)
	return machine{vm, guest}
}

const container = "c"

// run makes a container with busybox in the guest, whose init only waits.
func (m machine) run(t *testing.T) {
	t.Helper()
	socket := serveBusybox(t)
	defer socket.Close()
	if _, err := m.PlugShare(limit(t), "rootfs", socket); err != nil {
		t.Fatal(err)
	}
	_, err := m.CreateContainer(limit(t), &api.CreateContainerRequest{
		Container: container, Spec: spec(t), ShareTag: "rootfs", Stdio: &api.Stdio{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.StartContainer(limit(t), &api.ContainerRequest{Container: container}); err != nil {
		t.Fatal(err)
	}
}

// start runs a shell script in the container and gives its output, which ends
// with it.
func (m machine) start(t *testing.T, name, script string) io.ReadCloser {
	t.Helper()
	process, err := json.Marshal(processSpec("/bin/sh", "-c", "exec 2>&1; "+script))
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.ExecProcess(limit(t), &api.ExecProcessRequest{
		Container: container, Process: name, Spec: process, Stdio: &api.Stdio{Stdout: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	out, err := m.OpenStream(limit(t), api.KindStdout, container, name)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var processes int

// sh runs a script to its end.
func (m machine) sh(t *testing.T, script string) string {
	t.Helper()
	processes++
	name := fmt.Sprintf("sh%d", processes)
	out := m.start(t, name, script)
	defer out.Close()
	var text bytes.Buffer
	if _, err := io.Copy(&text, out); err != nil {
		t.Fatal(err)
	}
	end, err := m.WaitProcess(limit(t), &api.ProcessRequest{Container: container, Process: name})
	if err != nil || end.ExitCode != 0 {
		t.Fatalf("%s: exit %d, %v: %s", script, end.GetExitCode(), err, text.Bytes())
	}
	return text.String()
}

func processSpec(args ...string) map[string]any {
	caps := []string{"CAP_NET_RAW", "CAP_NET_ADMIN"}
	return map[string]any{
		"cwd": "/", "args": args, "env": []string{"PATH=/bin"},
		"user":         map[string]any{"uid": 0, "gid": 0},
		"capabilities": map[string]any{"bounding": caps, "effective": caps, "permitted": caps},
	}
}

func spec(t *testing.T) []byte {
	b, err := json.Marshal(map[string]any{
		"ociVersion": "1.2.0",
		"root":       map[string]any{"path": "rootfs"},
		"process":    processSpec("/bin/sleep", "1000"),
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"ro"}},
		},
		"linux": map[string]any{"namespaces": []map[string]any{{"type": "pid"}, {"type": "mount"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// serveBusybox starts a file server for a rootfs and gives a connection to it.
func serveBusybox(t *testing.T) *os.File {
	t.Helper()
	dir := t.TempDir()
	bin := filepath.Join(dir, "share", "rootfs", "bin")
	for _, sub := range []string{bin, filepath.Join(bin, "../proc"), filepath.Join(bin, "../dev"), filepath.Join(bin, "../sys")} {
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Skipf("NOT RUN: needs a static busybox: %v", err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "sh"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sleep", "ip", "ls", "ping", "nc", "sha256sum"} {
		if err := os.Link(filepath.Join(bin, "sh"), filepath.Join(bin, applet)); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-o", filepath.Join(bin, "stream"), "./stream")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the peer: %v: %s", err, out)
	}
	return fixture.ServeFiles(t, filepath.Join(dir, "share"))
}

// limit bounds one step, emulated on a busy machine.
func limit(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
