package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qmp"
)

// TestMain makes this program a QEMU too: one that speaks QMP and runs no
// guest. The machine's name says what is wrong with it.
func TestMain(m *testing.M) {
	if slices.Contains(os.Args, "-nodefaults") {
		os.Exit(fakeQEMU(strings.TrimPrefix(os.Args[slices.Index(os.Args, "-name")+1], "guest=")))
	}
	os.Exit(m.Run())
}

func fakeQEMU(mode string) int {
	if mode == "bad-option" {
		fmt.Fprintln(os.Stderr, "line one\nqemu: no such option")
		return 7
	}
	control := os.NewFile(3, "qmp")
	if mode == "silent" {
		fmt.Fprintln(os.Stderr, "thinking")
		unix.Pause() // as a QEMU that hangs: the end of its control socket does not end it
		return 0
	}
	fmt.Fprintln(control, `{"QMP":{"version":{},"capabilities":[]}}`)
	in := bufio.NewScanner(control)
	for in.Scan() {
		var c struct {
			Execute   string
			Arguments struct{ ID, Bus string }
			ID        uint64
		}
		if err := json.Unmarshal(in.Bytes(), &c); err != nil {
			return 1
		}
		answer := `"return":{}`
		switch {
		case c.Execute == "stop" && mode == "report":
			answer = fmt.Sprintf(`"return":%s`, environment())
		case c.Execute == "chardev-add" && mode == "no-chardev",
			c.Execute == "device_add" && mode == "no-device":
			answer = fmt.Sprintf(`"error":{"class":"GenericError","desc":"no %s"}`, c.Execute)
		case c.Execute == "device_add" && mode == "deaf":
			continue
		case c.Execute == "device_del" && mode == "vanished":
			answer = `"error":{"class":"DeviceNotFound","desc":"gone"}`
		}
		fmt.Fprintf(control, "{%s,\"id\":%d}\n", answer, c.ID)
		if c.Execute == "device_del" && mode != "vanished" && mode != "stubborn" {
			fmt.Fprintf(control, `{"event":"DEVICE_DELETED","data":{"path":"/x"}}`+"\n")
			fmt.Fprintf(control, `{"event":"DEVICE_DELETED","data":{"device":%q,"path":"/x"}}`+"\n", c.Arguments.ID)
		}
	}
	return 0
}

// childReport is what the fake QEMU sees of its surroundings.
type childReport struct {
	Env       []string
	Files     []string
	Netns     string
	Sid, Pid  int
	Pdeathsig int
}

func environment() []byte {
	r := childReport{Env: os.Environ(), Pid: unix.Getpid()}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		// Not what this program's own runtime has opened.
		own := strings.HasPrefix(to, "anon_inode:") || strings.HasPrefix(to, "/sys/fs/cgroup/")
		if err == nil && !own {
			r.Files = append(r.Files, e.Name()+" "+strings.SplitN(to, ":", 2)[0])
		}
	}
	r.Netns, _ = os.Readlink("/proc/self/ns/net")
	r.Sid, _ = unix.Getsid(0)
	r.Pdeathsig = parentDeathSignal
	b, _ := json.Marshal(r)
	return b
}

// parentDeathSignal is what this program was started with. It is the main
// thread's alone (prctl(2)), on which no test runs, but this does.
var parentDeathSignal = func() int {
	var sig int32
	unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&sig)), 0, 0, 0)
	return int(sig)
}()

func start(t *testing.T, mode string) *vm {
	t.Helper()
	v, err := Driver{}.Start(testContext(t), fakeConfig(t, mode))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Kill(); v.Channel().Close() })
	return v.(*vm)
}

func fakeConfig(t *testing.T, mode string) hypervisor.Config {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: a network namespace needs root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := validConfig()
	cfg.Name, cfg.Binary, cfg.HotplugSlots = mode, self, 1
	return cfg
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func anyFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestStartGivesQEMUNothingElse(t *testing.T) {
	t.Setenv("SECRET", "x")
	// A file that somebody forgot to mark close-on-exec.
	leak, err := unix.Open("/dev/zero", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	v := start(t, "report")
	var r childReport
	if err := v.qmp.Execute(testContext(t), "stop", nil, &r); err != nil {
		t.Fatal(err)
	}
	if len(r.Env) != 1 || !strings.HasPrefix(r.Env[0], "PATH=") {
		t.Errorf("environment %q", r.Env)
	}
	want := []string{"0 /dev/null", "1 /dev/null", "2 pipe", "3 socket", "4 socket", "5 socket"}
	if !slices.Equal(r.Files, want) {
		t.Errorf("files %q, want %q", r.Files, want)
	}
	if mine, _ := os.Readlink("/proc/self/ns/net"); r.Netns == mine {
		t.Error("in the caller's network namespace")
	}
	if r.Sid != r.Pid || r.Pid != v.Process().Pid {
		t.Errorf("pid %d, session %d, Process %+v", r.Pid, r.Sid, v.Process())
	}
	if r.Pdeathsig != int(unix.SIGKILL) {
		t.Errorf("parent-death signal %d", r.Pdeathsig)
	}
}

func TestStartErrors(t *testing.T) {
	tests := map[string]struct {
		mode string
		cfg  func(*hypervisor.Config)
		want []string
		is   error
	}{
		"QEMU ends": {mode: "bad-option", want: []string{"QEMU ended: exit status 7", "line one; qemu: no such option"}},
		"silence":   {mode: "silent", want: []string{"QEMU said: thinking"}, is: context.DeadlineExceeded},
		"no binary": {
			cfg:  func(c *hypervisor.Config) { c.Binary = "/nowhere/qemu" },
			want: []string{"/nowhere/qemu", "qemu-system-x86"}, is: fs.ErrNotExist,
		},
		"bad configuration": {cfg: func(c *hypervisor.Config) { c.CPUs = 0 }, want: []string{"0 CPUs"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := fakeConfig(t, tt.mode)
			if tt.cfg != nil {
				cfg.Name = "x"
				tt.cfg(&cfg)
			}
			files := openFiles(t)
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			_, err := Driver{}.Start(ctx, cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %q is not %v", err, tt.is)
			}
			if now := openFiles(t); now != files {
				t.Errorf("%d files open, %d before", now, files)
			}
			if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != unix.ECHILD {
				t.Errorf("a child is left: %v", err)
			}
		})
	}
}

func openFiles(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestPlugRefusedFreesTheSlot(t *testing.T) {
	for _, mode := range []string{"no-chardev", "no-device"} {
		t.Run(mode, func(t *testing.T) {
			v := start(t, mode)
			for range 2 {
				_, err := v.PlugShare(testContext(t), "tag", anyFile(t))
				var refused *qmp.Error
				if !errors.As(err, &refused) {
					t.Fatalf("got %v", err)
				}
			}
		})
	}
}

// What QEMU did with a device_add that it never answered is unknown.
func TestPlugUnansweredKeepsTheSlot(t *testing.T) {
	v := start(t, "deaf")
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := v.PlugShare(ctx, "tag", anyFile(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	// The rollback goes on by itself, and this QEMU answers it.
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		v.mu.Lock()
		taken := v.slots[0].interrupts
		v.mu.Unlock()
		if taken == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not rolled back")
		}
	}
}

func TestUnplug(t *testing.T) {
	t.Run("vanished", func(t *testing.T) { // the guest ejected it by itself
		v := start(t, "vanished")
		d := plug(t, v)
		if err := d.Unplug(testContext(t)); err != nil {
			t.Error(err)
		}
		plug(t, v)
	})
	t.Run("stubborn", func(t *testing.T) { // the guest does not react
		v := start(t, "stubborn")
		d := plug(t, v)
		for range 2 {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			if err := d.Unplug(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			cancel()
		}
		if _, err := v.PlugShare(testContext(t), "other", anyFile(t)); !errors.Is(err, hypervisor.ErrNoSlot) {
			t.Errorf("a slot with a device in it was given away: %v", err)
		}
	})
}

func plug(t *testing.T, v *vm) hypervisor.Device {
	t.Helper()
	d, err := v.PlugShare(testContext(t), "tag", anyFile(t))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestVersion(t *testing.T) {
	dir := t.TempDir()
	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	v, err := Version(testContext(t), script("good", "echo 'QEMU emulator version 7.2.22 (Debian x)'"))
	if err != nil || v.String() != "7.2.22" {
		t.Errorf("got %+v, %v", v, err)
	}
	for _, tt := range []struct{ binary, want string }{
		{script("bad", "echo oops >&2; exit 3"), "exit status 3: oops"},
		{script("other", "echo hello"), `"hello" is no version of QEMU`},
		{dir + "/missing", "no QEMU at " + dir + "/missing: install the package qemu-system-x86"},
	} {
		_, err := Version(testContext(t), tt.binary)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if _, err := Version(testContext(t), dir+"/missing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}
