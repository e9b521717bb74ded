package vmtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/client"
)

// guestEnv names the folder of a guest image (vmlinux, initrd, manifest.json).
const guestEnv = "VC_TEST_GUEST"

// virtiofsd is where Debian's qemu-system-common has it.
const virtiofsd = "/usr/lib/qemu/virtiofsd"

// machine is a guest with some shares, each with busybox in rootfs.
type machine struct {
	*client.Client
	t      *testing.T
	dir    string
	shares []string // folders on the host, by number; their tags are t0, t1, ...
	guest  string   // folder of the guest image
}

// boot starts a guest with n shares and connects to its agent.
func boot(t *testing.T, n int) *machine {
	t.Helper()
	return bootWith(t, n, nil)
}

// bootWith is boot for a session that is to go over vsock.
func bootWith(t *testing.T, n int, v *client.Vsock, kernelArgs ...string) *machine {
	t.Helper()
	m := &machine{t: t, dir: t.TempDir(), guest: os.Getenv(guestEnv)}
	if m.guest == "" {
		t.Skipf("NOT RUN: needs a virtual machine; set %s to the folder of a guest image", guestEnv)
	}
	start := time.Now()
	m.launch(t, n, kernelArgs)
	m.connect(t, v)
	t.Cleanup(func() { m.Close() })
	t.Logf("spawn to session %v, agent's uptime at hello %d ms", time.Since(start).Round(time.Millisecond), m.Hello().UptimeMs)
	return m
}

// launch starts QEMU.
func (m *machine) launch(t *testing.T, n int, kernelArgs []string) {
	t.Helper()
	// Without erms and fsrm, which make the guest's kernel copy and clear
	// pages byte by byte under TCG: an exec takes a third of the time.
	args := []string{
		"-M", "q35,accel=tcg,memory-backend=mem", "-object", "memory-backend-memfd,id=mem,size=256M,share=on",
		"-cpu", "max,-erms,-fsrm", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(m.guest, "vmlinux"), "-initrd", filepath.Join(m.guest, "initrd"),
		"-append", "console=ttyS0 quiet panic=-1 reboot=t tsc=reliable no_timer_check mitigations=off " + strings.Join(kernelArgs, " "),
		"-serial", "file:" + filepath.Join(m.dir, "console"),
		"-chardev", "socket,id=ag,server=on,wait=off,path=" + filepath.Join(m.dir, "agent"),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=ag,name=" + api.PortName,
		"-qmp", "unix:" + filepath.Join(m.dir, "qmp") + ",server=on,wait=off",
		"-device", "pcie-root-port,id=rp0,chassis=1,slot=1",
	}
	for i := range n {
		share := filepath.Join(m.dir, fmt.Sprintf("s%d", i))
		m.shares = append(m.shares, share)
		makeRootfs(t, share)
		sock := share + ".sock"
		startVirtiofsd(t, share, sock)
		args = append(args,
			"-chardev", fmt.Sprintf("socket,id=cfs%d,path=%s", i, sock),
			"-device", fmt.Sprintf("vhost-user-fs-pci,chardev=cfs%d,tag=t%d", i, i))
	}
	run(t, exec.Command("qemu-system-x86_64", args...))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("console:\n%s", m.console())
		}
	})
}

// connect starts a session with the agent.
func (m *machine) connect(t *testing.T, v *client.Vsock) {
	t.Helper()
	conn := dialUnix(t, filepath.Join(m.dir, "agent"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, conn, client.Options{ImageID: imageID(t, m.guest), Vsock: v})
	if err != nil {
		t.Fatal(err)
	}
	m.Client = c
}

// dialUnix connects to a socket that QEMU is about to make.
func dialUnix(t *testing.T, path string) net.Conn {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err == nil {
			return conn
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// qmp runs commands and waits for an event after them, "" for none.
func (m *machine) qmp(t *testing.T, event string, commands ...string) {
	t.Helper()
	conn := dialUnix(t, filepath.Join(m.dir, "qmp"))
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	lines := bufio.NewScanner(conn)
	next := func(key string) map[string]any {
		for lines.Scan() {
			var msg map[string]any
			if err := json.Unmarshal(lines.Bytes(), &msg); err != nil {
				t.Fatal(err)
			}
			if msg["error"] != nil {
				t.Fatalf("qmp: %s", lines.Text())
			}
			if msg[key] != nil {
				return msg
			}
		}
		t.Fatalf("qmp: no %s: %v", key, lines.Err())
		return nil
	}
	next("QMP")
	for _, c := range append([]string{`{"execute":"qmp_capabilities"}`}, commands...) {
		fmt.Fprintln(conn, c)
		next("return")
	}
	for event != "" && next("event")["event"] != event {
	}
}

func (m *machine) console() string {
	b, _ := os.ReadFile(filepath.Join(m.dir, "console"))
	return string(b[max(0, len(b)-4000):])
}

// run starts a program that ends with the test.
func run(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() && out.Len() > 0 {
			t.Logf("%s: %s", cmd.Path, out.String())
		}
	})
}

func startVirtiofsd(t *testing.T, share, sock string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: sock, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	cmd := exec.Command(virtiofsd, "--fd=3", "-o", "source="+share, "-o", "cache=auto", "-o", "xattr", "--rlimit-nofile=0")
	cmd.ExtraFiles = []*os.File{f}
	run(t, cmd)
	f.Close()
}

func imageID(t *testing.T, guest string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(guest, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct{ ImageID string }
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	return m.ImageID
}

// makeRootfs makes a share with busybox in its rootfs.
func makeRootfs(t *testing.T, share string) {
	t.Helper()
	bin := filepath.Join(share, "rootfs", "bin")
	for _, dir := range []string{bin, share + "/rootfs/proc", share + "/rootfs/sys", share + "/rootfs/dev", share + "/rootfs/tmp", share + "/m/0"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), b, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "echo", "cat", "true", "sleep", "dd", "sha256sum", "stty", "head", "yes", "ls", "tty", "kill"} {
		if err := os.Symlink("busybox", filepath.Join(bin, applet)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "noexec"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// spec is a config.json as the host makes them.
func spec(args []string, edit ...func(map[string]any)) []byte {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT"}
	s := map[string]any{
		"ociVersion": "1.2.0",
		"process":    process(args),
		"root":       map[string]any{"path": "rootfs"},
		"hostname":   "c",
		"mounts": []map[string]any{
			{"destination": "/proc", "type": "proc", "source": "proc"},
			{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755", "size=65536k"}},
			{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}},
			{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
			{"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
			{"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": []string{"nosuid", "noexec", "nodev", "ro"}},
			{"destination": "/mnt", "type": "bind", "source": "m/0", "options": []string{"rbind", "rw"}},
		},
		"linux": map[string]any{
			"namespaces":  []map[string]any{{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}},
			"maskedPaths": []string{"/proc/kcore", "/proc/keys"}, "readonlyPaths": []string{"/proc/sys"},
		},
	}
	s["process"].(map[string]any)["capabilities"] = map[string]any{"bounding": caps, "effective": caps, "permitted": caps}
	for _, f := range edit {
		f(s)
	}
	b, _ := json.Marshal(s)
	return b
}

func process(args []string) map[string]any {
	return map[string]any{
		"cwd": "/", "args": args, "user": map[string]any{"uid": 0, "gid": 0},
		"env": []string{"PATH=/usr/bin:/bin", "TERM=xterm"},
	}
}

func processSpec(args ...string) []byte {
	b, _ := json.Marshal(process(args))
	return b
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// create makes a container on share 0 and removes it at the end of the test.
func (m *machine) create(t *testing.T, name string, stdio *api.Stdio, config []byte) {
	t.Helper()
	start := time.Now()
	_, err := m.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: name, Spec: config, ShareTag: "t0", Stdio: stdio})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("create %s: %v", name, time.Since(start).Round(time.Millisecond))
	t.Cleanup(func() { m.remove(t, name) })
}

func (m *machine) remove(t *testing.T, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	start := time.Now()
	if _, err := m.RemoveContainer(ctx, &api.ContainerRequest{Container: name}); err != nil {
		t.Errorf("remove %s: %v", name, err)
	}
	t.Logf("remove %s: %v", name, time.Since(start).Round(time.Millisecond))
}

func (m *machine) start(t *testing.T, name string) {
	t.Helper()
	start := time.Now()
	if _, err := m.StartContainer(testContext(t), &api.ContainerRequest{Container: name}); err != nil {
		t.Fatal(err)
	}
	t.Logf("start %s: %v", name, time.Since(start).Round(time.Millisecond))
}

// wait gives the exit code of a process.
func (m *machine) wait(t *testing.T, name, process string) *api.WaitProcessResponse {
	t.Helper()
	r, err := m.WaitProcess(testContext(t), &api.ProcessRequest{Container: name, Process: process})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (m *machine) open(t *testing.T, kind api.Kind, name, process string) net.Conn {
	t.Helper()
	conn, err := m.OpenStream(testContext(t), kind, name, process)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func sh(script ...string) []string { return []string{"/bin/sh", "-c", strings.Join(script, "; ")} }
