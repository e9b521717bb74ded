// Package hypervisor tests the drivers of package hypervisor with real guests.
// Package testenv/machine says what is to be there.
package hypervisor

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/hypertest"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	"github.com/vc-runtime/vc-runtime/state"
	fixture "github.com/vc-runtime/vc-runtime/tests/testenv/machine"
)

// ownerEnv makes this program the owner of a machine that TestOwnerKilled
// kills.
const ownerEnv = "VC_TEST_OWNER"

func TestMain(m *testing.M) {
	if os.Getenv(ownerEnv) != "" {
		os.Exit(own())
	}
	os.Exit(m.Run())
}

func TestQEMUKeepsTheContract(t *testing.T) {
	cfg := machine(t)
	hypertest.Run(t, hypertest.Subject{Driver: qemu.Driver{}, Config: cfg, Share: serveFiles})
}

// The guest's own end, whatever its cause, is an error.
func TestGuestThatDoesNotBoot(t *testing.T) {
	cfg := machine(t)
	cfg.KernelArgs = append(cfg.KernelArgs, "rdinit=/nothing") // panics: no init
	vm, err := qemu.Driver{}.Start(limit(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	defer vm.Channel().Close()
	select {
	case <-vm.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("the machine goes on after its kernel's panic")
	}
	if err := vm.Err(); err == nil || !strings.Contains(err.Error(), "QEMU ended") {
		t.Errorf("reason: %v", err)
	}
	if !strings.Contains(string(vm.Console()), "Kernel panic") {
		t.Errorf("no panic on the console:\n%s", vm.Console())
	}
}

// A wrong start says in QEMU's words what is wrong, and leaves nothing.
func TestStartFails(t *testing.T) {
	cfg := machine(t)
	cfg.Kernel = "/dev/null"
	_, err := qemu.Driver{}.Start(limit(t, time.Minute), cfg)
	if err == nil || !strings.Contains(err.Error(), "qemu") || strings.Contains(err.Error(), "\n") {
		t.Errorf("error: %v", err)
	}
	noChildren(t)
}

// A file server that has gone fails the plug, and only that.
func TestPlugIsRolledBack(t *testing.T) {
	cfg := machine(t)
	cfg.HotplugSlots = 1
	vm, err := qemu.Driver{}.Start(limit(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Channel().Close()
	defer vm.Kill()
	for range 3 {
		mine, theirs := socketpair(t)
		theirs.Close()
		if _, err := vm.PlugShare(limit(t, time.Minute), "dead", mine); err == nil || errors.Is(err, hypervisor.ErrNoSlot) {
			t.Fatalf("plug of a dead file server: %v", err)
		}
		mine.Close()
	}
	socket := serveFiles(t)
	defer socket.Close()
	if _, err := vm.PlugShare(limit(t, time.Minute), "live", socket); err != nil {
		t.Error(err)
	}
}

// QEMU does not outlive the process that has started it.
func TestOwnerKilled(t *testing.T) {
	machine(t) // skips
	owner := exec.Command("/proc/self/exe")
	owner.Env = append(os.Environ(), ownerEnv+"=1")
	owner.Stderr = os.Stderr
	out, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		owner.Process.Kill()
		t.Fatal(errors.Join(err, owner.Wait()))
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	vm, err := state.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	owner.Process.Kill()
	owner.Wait()
	if err := vm.Wait(limit(t, 10*time.Second)); err != nil {
		vm.Signal(unix.SIGKILL)
		t.Errorf("QEMU outlives its owner: %v", err)
	}
}

// own starts a machine, prints QEMU's pid and waits to be killed. The thread
// that called Start ends first: QEMU must not mind.
func own() int {
	cfg, _, err := fixture.Find()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	vm, err := startOnDyingThread(ctx, cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select { // long enough for a parent-death signal to have come
	case <-vm.Done():
		fmt.Fprintln(os.Stderr, "QEMU ended with the thread that started it:", vm.Err())
		return 1
	case <-time.After(300 * time.Millisecond):
	}
	fmt.Println(vm.Process().Pid)
	<-vm.Done()
	return 1
}

// The proof that KVM works is a guest that boots. Whatever the answer is on
// this host, it must come in time and be remembered.
func TestProbeAccel(t *testing.T) {
	cfg := qemu.ProbeConfig{
		Driver: qemu.Driver{}, Machine: machine(t), ImageID: "test",
		CacheFile: filepath.Join(t.TempDir(), "accel.json"),
	}
	begun := time.Now()
	first, err := qemu.ProbeAccel(limit(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("in %v: %+v", time.Since(begun), first)
	if !first.Fresh || (first.Accel == hypervisor.AccelKVM) != (first.Reason == "") {
		t.Errorf("first answer %+v", first)
	}
	if took := time.Since(begun); took > 2*qemu.DefaultProbeTimeout {
		t.Errorf("took %v", took)
	}
	second, err := qemu.ProbeAccel(limit(t, 100*time.Millisecond), cfg)
	if first.Fresh = false; err != nil || second != first {
		t.Errorf("second answer %+v, %v", second, err)
	}
	noChildren(t)
}

// machine is the configuration of a small guest; the test is skipped where
// there is no guest image.
func machine(t testing.TB) hypervisor.Config {
	t.Helper()
	cfg, _ := fixture.Config(t)
	return cfg
}

// serveFiles starts a file server for an empty folder and gives a connection
// to it.
func serveFiles(t *testing.T) *os.File {
	t.Helper()
	return fixture.ServeFiles(t, t.TempDir())
}

func socketpair(t *testing.T) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "a"), os.NewFile(uintptr(fds[1]), "b")
}

// noChildren fails the test if a child was left, running or not reaped.
func noChildren(t *testing.T) {
	t.Helper()
	err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	if !errors.Is(err, unix.ECHILD) {
		t.Errorf("a child is left: waitid: %v, want ECHILD", err)
	}
}

func limit(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
