package hypertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
)

const (
	bootLimit = 2 * time.Minute        // for a guest to say hello, emulated on a busy machine
	callLimit = 30 * time.Second       // for a call that must succeed
	hangLimit = 200 * time.Millisecond // for a call that cannot succeed
)

// Subject is an implementation under test.
type Subject struct {
	Driver hypervisor.Driver
	// Config is a machine with at least two hotplug slots, two CPUs and three
	// hypervisor.MemorySteps to grow by, whose guest says api.Hello.
	Config hypervisor.Config
	// Share gives the connected vhost-user socket of a new file server.
	Share func(t *testing.T) *os.File
}

// Run tests that a hypervisor keeps the contract of package hypervisor.
func Run(t *testing.T, s Subject) {
	tests := []struct {
		name string
		run  func(*testing.T, Subject)
	}{
		{"StartGivesUpWithContext", startGivesUp},
		{"Channel", channel},
		{"DialVsock", dialVsock},
		{"Kill", kill},
		{"Terminate", terminate},
		{"DeathFromOutside", deathFromOutside},
		{"PauseAndResume", pauseAndResume},
		{"SlotsAreLimitedAndReused", slots},
		{"PlugIsConcurrent", concurrentPlugs},
		{"Grows", grows},
		{"DisksComeAndGoTogether", disks},
		{"CallsGiveUpOnFrozenHypervisor", frozen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.run(t, s) })
	}
}

func (s Subject) start(t *testing.T) hypervisor.VM {
	t.Helper()
	vm, err := s.Driver.Start(limit(t, callLimit), s.Config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vm.Kill(); err != nil {
			t.Errorf("kill at the end: %v", err)
		}
		vm.Channel().Close()
	})
	return vm
}

// boot starts a machine and waits for the hello of its guest.
func (s Subject) boot(t *testing.T) hypervisor.VM {
	t.Helper()
	vm := s.start(t)
	if err := vm.Channel().SetReadDeadline(time.Now().Add(bootLimit)); err != nil {
		t.Fatal(err)
	}
	var hello api.Hello
	if err := api.ReadLine(vm.Channel(), &hello); err != nil {
		t.Fatalf("hello: %v\nconsole:\n%s", err, vm.Console())
	}
	if hello.Protocol != api.ProtocolVersion {
		t.Fatalf("hello %+v", hello)
	}
	return vm
}

func (s Subject) plug(t *testing.T, vm hypervisor.VM, tag string) hypervisor.Device {
	t.Helper()
	socket := s.Share(t)
	defer socket.Close() // the VM has its own
	d, err := vm.PlugShare(limit(t, callLimit), tag, socket)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func startGivesUp(t *testing.T, s Subject) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Driver.Start(ctx, s.Config); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func channel(t *testing.T, s Subject) {
	vm := s.boot(t)
	if vm.Channel() != vm.Channel() {
		t.Error("another channel at each call")
	}
	if n := len(vm.Console()); n > 64<<10 {
		t.Errorf("%d bytes of console", n)
	}
	if err := vm.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, vm.Channel()); err != nil {
		t.Errorf("at the end of the channel: %v, want EOF", err)
	}
}

// dialVsock: a machine without the device says so at once; with one, nobody
// has to listen, and nobody waits longer than asked to.
func dialVsock(t *testing.T, s Subject) {
	vm := s.start(t)
	conn, err := vm.DialVsock(limit(t, hangLimit), 4711)
	if err == nil {
		conn.Close()
		t.Fatal("connected to a port where nobody listens")
	}
	if errors.Is(err, hypervisor.ErrVsock) == s.Config.Vsock {
		t.Errorf("with a device %v: %v", s.Config.Vsock, err)
	}
}

func kill(t *testing.T, s Subject) {
	vm := s.start(t) // the guest, if there is one, has not booted
	p := vm.Process()
	if !p.Alive() {
		t.Fatalf("process %+v is not alive", p)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := vm.Kill(); err != nil {
				t.Error(err)
			}
			if p.Alive() {
				t.Error("the process is alive after Kill")
			}
			if err := unix.Kill(p.Pid, 0); err != unix.ESRCH {
				t.Errorf("the process was not reaped: %v", err)
			}
		})
	}
	wg.Wait()
	select {
	case <-vm.Done():
	default:
		t.Error("not done after Kill")
	}
	if err := vm.Err(); err != nil {
		t.Errorf("Err after Kill: %v", err)
	}
	if err := vm.Pause(limit(t, callLimit)); err == nil {
		t.Error("paused a dead machine")
	}
}

// terminate: the machine ends without anybody's waiting for that, and as after Kill.
func terminate(t *testing.T, s Subject) {
	vm := s.start(t)
	for range 2 {
		if err := vm.Terminate(); err != nil {
			t.Error(err)
		}
	}
	select {
	case <-vm.Done():
	case <-time.After(callLimit):
		t.Fatal("not done")
	}
	if err := vm.Err(); err != nil {
		t.Errorf("Err after Terminate: %v", err)
	}
	if err := vm.Terminate(); err != nil {
		t.Errorf("of a dead machine: %v", err)
	}
}

func deathFromOutside(t *testing.T, s Subject) {
	vm := s.start(t)
	if err := vm.Err(); err != nil {
		t.Errorf("Err of a living machine: %v", err)
	}
	if err := vm.Process().Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-vm.Done():
	case <-time.After(callLimit):
		t.Fatal("not done")
	}
	if vm.Err() == nil {
		t.Error("no reason for the end")
	}
	if err := vm.Pause(limit(t, callLimit)); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("pause of a dead machine: %v", err)
	}
	if err := vm.Kill(); err != nil {
		t.Error(err)
	}
	if vm.Err() == nil {
		t.Error("Kill has taken the reason away")
	}
}

func pauseAndResume(t *testing.T, s Subject) {
	vm := s.start(t)
	for range 2 {
		if err := vm.Pause(limit(t, callLimit)); err != nil {
			t.Fatal(err)
		}
		if err := vm.Resume(limit(t, callLimit)); err != nil {
			t.Fatal(err)
		}
	}
}

func slots(t *testing.T, s Subject) {
	vm := s.boot(t)
	var devices []hypervisor.Device
	for i := range s.Config.HotplugSlots {
		devices = append(devices, s.plug(t, vm, fmt.Sprintf("t%d", i)))
	}
	socket := s.Share(t)
	defer socket.Close()
	if _, err := vm.PlugShare(limit(t, callLimit), "more", socket); !errors.Is(err, hypervisor.ErrNoSlot) {
		t.Fatalf("one too many: %v", err)
	}
	for range 2 {
		// Twice is not an error, and does not free another's slot.
		if err := devices[1].Unplug(limit(t, callLimit)); err != nil {
			t.Fatal(err)
		}
	}
	d := s.plug(t, vm, "again")
	if _, err := vm.PlugShare(limit(t, callLimit), "more", socket); !errors.Is(err, hypervisor.ErrNoSlot) {
		t.Fatalf("one too many after an unplug: %v", err)
	}
	for _, d := range append(devices, d) {
		if err := d.Unplug(limit(t, callLimit)); err != nil {
			t.Error(err)
		}
	}
}

// disks: as many as fit take one slot, whose unplug lets go of all their files.
func disks(t *testing.T, s Subject) {
	vm := s.boot(t)
	var some []hypervisor.Disk
	for i := range hypervisor.MaxDisks {
		f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(1 << 20); err != nil {
			t.Fatal(err)
		}
		some = append(some, hypervisor.Disk{File: f, Serial: fmt.Sprintf("d%d", i)})
	}
	if _, err := vm.PlugDisks(limit(t, callLimit), nil); err == nil {
		t.Error("plugged no disk")
	}
	if _, err := vm.PlugDisks(limit(t, callLimit), append(some, some[0])); err == nil {
		t.Error("plugged too many disks")
	}
	for range s.Config.HotplugSlots + 1 { // none of them keeps its slot
		d, err := vm.PlugDisks(limit(t, callLimit), some)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := d.Unplug(limit(t, callLimit)); err != nil {
				t.Fatal(err)
			}
		}
		for _, disk := range some {
			if n := openIn(t, vm.Process().Pid, disk.File.Name()); n != 0 {
				t.Errorf("%s is open %d times after the unplug", disk.Serial, n)
			}
		}
	}
}

// openIn counts the descriptors of a process that lead to path.
func openIn(t *testing.T, pid int, path string) int {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == path {
			n++
		}
	}
	return n
}

func concurrentPlugs(t *testing.T, s Subject) {
	vm := s.boot(t)
	var wg sync.WaitGroup
	for i := range s.Config.HotplugSlots {
		socket := s.Share(t)
		defer socket.Close()
		wg.Go(func() {
			d, err := vm.PlugShare(limit(t, callLimit), fmt.Sprintf("t%d", i), socket)
			if err == nil {
				err = d.Unplug(limit(t, callLimit))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// grows: up to what the Config says, and no further.
func grows(t *testing.T, s Subject) {
	vm := s.boot(t)
	for _, steps := range []int{1, 2} {
		if err := vm.AddMemory(limit(t, callLimit), steps*hypervisor.MemoryStep); err != nil {
			t.Fatal(err)
		}
	}
	if err := vm.AddMemory(limit(t, callLimit), s.Config.MaxMemoryMiB); err == nil {
		t.Error("more memory than the machine may have")
	}
	for range s.Config.MaxCPUs - s.Config.CPUs {
		if err := vm.AddCPUs(limit(t, callLimit), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := vm.AddCPUs(limit(t, callLimit), 1); !errors.Is(err, hypervisor.ErrNoSlot) {
		t.Errorf("one CPU too many: %v", err)
	}
	// The machine has taken no harm.
	d := s.plug(t, vm, "after")
	if err := d.Unplug(limit(t, callLimit)); err != nil {
		t.Error(err)
	}
}

// frozen: a hypervisor that does nothing any more holds nobody up, and can
// still be killed while calls to it hang.
func frozen(t *testing.T, s Subject) {
	vm := s.boot(t)
	plugged := s.plug(t, vm, "plugged")
	if err := vm.Process().Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	socket := s.Share(t)
	defer socket.Close()
	calls := map[string]func(context.Context) error{
		"Pause":     vm.Pause,
		"Resume":    vm.Resume,
		"Unplug":    plugged.Unplug,
		"AddMemory": func(ctx context.Context) error { return vm.AddMemory(ctx, hypervisor.MemoryStep) },
		"AddCPUs":   func(ctx context.Context) error { return vm.AddCPUs(ctx, 1) },
		"PlugShare": func(ctx context.Context) error {
			_, err := vm.PlugShare(ctx, "late", socket)
			return err
		},
	}
	for name, call := range calls {
		if err := call(limit(t, hangLimit)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v, want its deadline", name, err)
		}
	}
	var wg sync.WaitGroup
	for _, call := range calls {
		wg.Go(func() {
			if call(limit(t, callLimit)) == nil {
				t.Error("a call to a frozen hypervisor succeeded")
			}
		})
	}
	begun := time.Now()
	if err := vm.Kill(); err != nil {
		t.Error(err)
	}
	wg.Wait() // Kill ends them long before their deadline
	if took := time.Since(begun); took > callLimit/2 {
		t.Errorf("the calls took %v to end", took)
	}
}

func limit(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}
