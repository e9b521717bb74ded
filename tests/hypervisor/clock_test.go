package hypervisor

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
)

// TestClockOfStarvedGuest starts a machine that gets little of a CPU: its clock
// must not go faster than the host's. (A kernel that has to find out how fast
// its time stamp counter is waits for emulated timers. If it loses the CPU
// between the start of a timer and its first look at the counter, all times that
// it counts are several times too long.)
func TestClockOfStarvedGuest(t *testing.T) {
	cfg := machine(t)
	crowd(t, 3)
	begun := time.Now()
	vm, err := qemu.Driver{}.Start(limit(t, time.Minute), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Channel().Close()
	defer vm.Kill()
	vm.Channel().SetReadDeadline(begun.Add(4 * time.Minute))
	var hello api.Hello
	if err := api.ReadLine(vm.Channel(), &hello); err != nil {
		t.Fatalf("no greeting: %v, %v\n%s", err, vm.Err(), vm.Console())
	}
	uptime, elapsed := time.Duration(hello.UptimeMs)*time.Millisecond, time.Since(begun)
	t.Logf("the guest counts %s, the host %s", uptime, elapsed)
	if uptime > elapsed {
		t.Errorf("the guest counts %s since its kernel began, the host %s since it started the machine", uptime, elapsed)
	}
}

// crowd gives this process, and what it starts, one CPU together with processes
// that want all of it, until the test ends. Each is in a session of its own, or
// else Linux gives them no more than one share (sched(7), autogroup).
func crowd(t *testing.T, size int) {
	t.Helper()
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	runOn(t, &one)
	t.Cleanup(func() { runOn(t, &before) })
	for range size {
		cmd := exec.Command("sh", "-c", `while kill -0 "$0"; do :; done`, strconv.Itoa(os.Getpid()))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	}
}

// runOn gives all threads of this process those CPUs.
func runOn(t *testing.T, cpus *unix.CPUSet) {
	t.Helper()
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(thread.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.SchedSetaffinity(tid, cpus); err != nil && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
	}
}
