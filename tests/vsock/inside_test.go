package vsock

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// insideVar marks the program that runs in the outer machine.
const insideVar = "VC_VSOCK_INSIDE"

// Places in the outer machine.
const (
	runtimePath = "/usr/bin/vc-runtime"
	selfPath    = "/usr/bin/vsock.test"
	guestDir    = "/usr/lib/vc-runtime/guest"
	baseRootfs  = "/base"
	stateRoot   = "/run/vc-runtime"
)

// TestInside runs containers in a host with vsock. Each start of a machine
// takes minutes here, so there are few, and each test looks at all that it can.
func TestInside(t *testing.T) {
	if os.Getenv(insideVar) == "" {
		t.Skip("NOT RUN: this is not the outer machine of TestVsock")
	}
	t.Run("ColdBoot", coldBoot)
	t.Run("Clones", clones)
	t.Run("BrokenDevice", broken)
	t.Run("VhostNet", vhostNet)
}

// inside is a configuration of the runtime under test.
type inside struct {
	*testing.T
	config string
}

func configured(t *testing.T, channel, template string, more ...string) *inside {
	c := &inside{T: t, config: filepath.Join(t.TempDir(), "config.toml")}
	// Nothing here is about time.
	text := fmt.Sprintf(`
[runtime]
create_timeout = "40m"
call_timeout = "20m"
kill_timeout = "5m"
flush_timeout = "5m"
teardown_timeout = "5m"
[hypervisor]
accel = "tcg"
guest_image = %q
channel = %q
template = %q
boot_timeout = "30m"
cache_dir = "/var/cache/vc-runtime"
`, guestDir, channel, template) + strings.Join(more, "\n")
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// bundle makes a bundle with busybox.
func (c *inside) bundle(args ...string) string {
	c.Helper()
	return c.bundleIn("", args...)
}

// bundleIn makes one whose network namespace is at a path, "" for a new one.
func (c *inside) bundleIn(netns string, args ...string) string {
	c.Helper()
	dir := c.TempDir()
	if out, err := exec.Command("/bin/busybox", "cp", "-a", baseRootfs, filepath.Join(dir, "rootfs")).CombinedOutput(); err != nil {
		c.Fatalf("copy the root file system: %v: %s", err, out)
	}
	spec := map[string]any{
		"ociVersion": "1.0.2",
		"process":    map[string]any{"user": map[string]int{"uid": 0, "gid": 0}, "args": args, "env": []string{"PATH=/bin"}, "cwd": "/"},
		"root":       map[string]any{"path": "rootfs"},
		"mounts":     []any{map[string]any{"destination": "/proc", "type": "proc", "source": "proc"}},
		"linux": map[string]any{"namespaces": []any{
			map[string]any{"type": "pid"}, map[string]any{"type": "mount"}, map[string]any{"type": "ipc"},
			map[string]any{"type": "uts"}, map[string]any{"type": "network", "path": netns},
		}},
	}
	b, err := json.Marshal(spec)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
	}
	if err != nil {
		c.Fatal(err)
	}
	return dir
}

// result is how a call of the runtime ended.
type result struct {
	code           int
	stdout, stderr string
}

// do runs the runtime.
func (c *inside) do(stdin []byte, args ...string) result {
	c.Helper()
	begun := time.Now()
	cmd := exec.Command(runtimePath, append([]string{"--root", stateRoot, "--config", c.config}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		c.Fatal(err)
	}
	c.Logf("%s: exit code %d after %.1f s", args, cmd.ProcessState.ExitCode(), time.Since(begun).Seconds())
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// ok runs the runtime, which must succeed.
func (c *inside) ok(args ...string) result {
	c.Helper()
	res := c.do(nil, args...)
	if res.code != 0 {
		c.Fatalf("%q: %+v", args, res)
	}
	return res
}

// detached starts a container that runs in the background, and gives the pid
// of its shim. Output goes to files: a pipe would be held by the shim.
func (c *inside) detached(id string, args ...string) (pid int) {
	c.Helper()
	return c.detachedFrom(c.bundle(args...), id)
}

func (c *inside) detachedFrom(dir, id string) (pid int) {
	c.Helper()
	pidFile := filepath.Join(dir, "pid")
	begun := time.Now()
	cmd := exec.Command(runtimePath, "--root", stateRoot, "--config", c.config, "run", "--detach", "--bundle", dir, "--pid-file", pidFile, id)
	errors, err := os.Create(filepath.Join(dir, "stderr"))
	if err != nil {
		c.Fatal(err)
	}
	defer errors.Close()
	cmd.Stderr = errors
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(errors.Name())
		c.Fatalf("start %s: %v: %s", id, err, said)
	}
	c.Logf("%s runs after %.1f s", id, time.Since(begun).Seconds())
	c.Cleanup(func() { c.do(nil, "delete", "--force", id) })
	b, err := os.ReadFile(pidFile)
	if err != nil {
		c.Fatal(err)
	}
	if pid, err = strconv.Atoi(string(b)); err != nil {
		c.Fatal(err)
	}
	return pid
}

// goesOver checks what the session of a sandbox goes over.
func (c *inside) goesOver(id, carrier string) {
	c.Helper()
	b, err := os.ReadFile(filepath.Join(stateRoot, "sandboxes", id, "monitor.log"))
	if err != nil {
		c.Fatal(err)
	}
	if !strings.Contains(string(b), "carrier="+carrier) {
		c.Errorf("the session of %s does not go over %s: %s", id, carrier, b)
	}
}

// machine is the QEMU of a sandbox: its pid and command line.
func (c *inside) machine(id string) (pid int, line string) {
	c.Helper()
	b, err := os.ReadFile(filepath.Join(stateRoot, "sandboxes", id, "sandbox.json"))
	if err != nil {
		c.Fatal(err)
	}
	var rec struct{ VM struct{ Pid int } }
	if err := json.Unmarshal(b, &rec); err != nil || rec.VM.Pid == 0 {
		c.Fatalf("%v: %s", err, b)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", rec.VM.Pid))
	if err != nil {
		c.Fatal(err)
	}
	return rec.VM.Pid, strings.ReplaceAll(string(cmdline), "\x00", " ")
}

// status is that which state gives.
func (c *inside) status(id string) string {
	c.Helper()
	var st struct{ Status string }
	if err := json.Unmarshal([]byte(c.ok("state", id).stdout), &st); err != nil {
		c.Fatal(err)
	}
	return st.Status
}

// nothingLeft checks that no machine and no state is left.
func (c *inside) nothingLeft() {
	c.Helper()
	for _, dir := range []string{"containers", "sandboxes"} {
		if left, _ := filepath.Glob(filepath.Join(stateRoot, dir, "*")); len(left) != 0 {
			c.Errorf("left: %q", left)
		}
	}
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range cmdlines {
		if b, _ := os.ReadFile(f); bytes.Contains(b, []byte("qemu-system")) {
			c.Errorf("left: %s: %q", f, b)
		}
	}
}

// coldBoot: input, output and exit code of a container in a machine that boots.
func coldBoot(t *testing.T) {
	c := configured(t, "vsock", "off")
	input := make([]byte, 10<<20)
	rand.Read(input)
	sum := sha256.Sum256(input)
	res := c.do(input, "run", "--bundle", c.bundle("sh", "-c", "sha256sum; echo and this >&2; exit 3"), "cold")
	if res.code != 3 || !strings.HasPrefix(res.stdout, hex.EncodeToString(sum[:])) || !strings.Contains(res.stderr, "and this") {
		t.Errorf("got %+v, want the hash %x", res, sum)
	}
	c.nothingLeft()
}

var cidInLine = regexp.MustCompile(`guest-cid=(\d+)`)

// clones: two that live at a time, and what is done with containers.
func clones(t *testing.T) {
	c := configured(t, "vsock", "auto")
	c.detached("one", "sh", "-c", "sleep 1000000")
	two := c.detached("two", "sh", "-c", "trap '' TERM; sleep 1000000")
	_, oneLine := c.machine("one")
	twoVM, twoLine := c.machine("two")
	a, b := cidInLine.FindString(oneLine), cidInLine.FindString(twoLine)
	if a == "" || b == "" || a == b {
		t.Errorf("addresses %q and %q", a, b)
	}
	for id, line := range map[string]string{"one": oneLine, "two": twoLine} {
		if !strings.Contains(line, "-incoming") {
			t.Errorf("%s is no clone: %s", id, line)
		}
		c.goesOver(id, "vsock")
	}
	res := c.do([]byte("typed\n"), "exec", "one", "sh", "-c", "cat; echo wrong >&2; exit 5")
	if res.code != 5 || res.stdout != "typed\n" || !strings.Contains(res.stderr, "wrong") {
		t.Errorf("exec: %+v", res)
	}

	c.ok("kill", "one", "KILL")
	if got := c.status("one"); got != "stopped" {
		t.Errorf("one is %s after the kill", got)
	}
	c.ok("delete", "one")

	// The machine of the other dies: its shim goes, and nobody hangs.
	if err := syscall.Kill(twoVM, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := c.status("two"); got != "stopped" {
		t.Errorf("two is %s after the death of its machine", got)
	}
	if err := syscall.Kill(two, 0); err == nil && !zombie(two) {
		t.Error("the shim of two is alive after the death of its machine")
	}
	c.ok("delete", "two")
	c.nothingLeft()
}

// zombie reports whether a process has ended: nobody reaps here.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(b), ") Z ")
}

// broken: a device that is none. Without "vsock" in the configuration that is
// said, and the machine has virtio-serial only.
func broken(t *testing.T) {
	const device = "/dev/vhost-vsock"
	if err := syscall.Mount("/dev/null", device, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(device, 0)
	c := configured(t, "vsock", "auto")
	res := c.do(nil, "run", "--bundle", c.bundle("true"), "none")
	if res.code != 1 || !strings.Contains(res.stderr, device) {
		t.Errorf("vsock: %+v", res)
	}
	c.nothingLeft()

	c = configured(t, "auto", "off")
	c.detached("serial", "sleep", "1000000")
	c.goesOver("serial", "serial")
	if _, line := c.machine("serial"); strings.Contains(line, "vsock") {
		t.Errorf("a vsock device: %s", line)
	}
	c.ok("delete", "--force", "serial")
	c.nothingLeft()
}
