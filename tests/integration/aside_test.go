package integration

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// held is a file whose next opening waits for ever, or for close.
type held struct {
	*testenv.Env
	fanotify *os.File
}

// hold holds the opening of a file (fanotify(7), FAN_OPEN_PERM).
func hold(e *testenv.Env, path string) *held {
	e.Helper()
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		e.Fatal(err)
	}
	h := &held{e, os.NewFile(uintptr(fd), "fanotify")}
	e.Cleanup(h.close)
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path); err != nil {
		e.Fatal(err)
	}
	return h
}

func (h *held) close() { h.fanotify.Close() }

// opened waits until somebody opens the file, and gives who does.
func (h *held) opened() (pid int) {
	h.Helper()
	b := make([]byte, 4096)
	n, err := h.fanotify.Read(b)
	if err != nil {
		h.Fatal(err)
	}
	var event unix.FanotifyEventMetadata
	if err := binary.Read(bytes.NewReader(b[:n]), binary.NativeEndian, &event); err != nil || n != int(unsafe.Sizeof(event)) {
		h.Fatalf("read %d bytes, %v", n, err)
	}
	unix.Close(int(event.Fd))
	return int(event.Pid)
}

// shimOf gives the shim whose child, or child's child, a file server is.
func shimOf(e *testenv.Env, server int) int {
	e.Helper()
	for pid := server; pid > 1; {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			e.Fatal(err)
		}
		name, rest, _ := strings.Cut(string(b), ") ")
		if !strings.HasSuffix(name, "(virtiofsd") {
			return pid
		}
		pid, _ = strconv.Atoi(strings.Fields(rest)[1]) // ppid (proc(5))
	}
	e.Fatalf("process %d has no shim", server)
	return 0
}

// TestShimDiesAtWork has the shim of a pod's member killed while the guest makes the
// container, in the middle of a request to the file server, which dies with it: the
// guest waits for that answer for ever. The pod and its other members live on, and
// the same create works at once.
func TestShimDiesAtWork(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	settings := maps.Clone(growing)
	settings["runtime.kill_timeout"] = `"500ms"`
	p := newPod(e.Configured(settings), callers[0])
	vm := p.SandboxPids(p.id).VM
	b := p.bundle(p.ID(), false, testenv.Shell("echo one; exit 3"))
	h := hold(p.Env, filepath.Join(b.Overlay.Dir, "etc/passwd"))
	res := p.Call(testenv.Command{
		Args: []string{"create", "--bundle", b.Dir, b.ID}, Null: true,
		Started: func(int) { p.Signal(shimOf(p.Env, h.opened()), unix.SIGKILL) },
	})
	h.close()
	if res.Code == 0 {
		t.Fatalf("created without a shim: %s", res)
	}
	p.OK("delete", "--force", b.ID)
	if err := b.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	c := p.CreateFrom(b, nil)
	c.Start()
	p.Equal("exit code", c.Wait(exitLimit), 3)
	p.Equal("output", c.Stdout(), "one\n")
	c.Delete()
	p.Equal("output of another one", in(p.infra, "echo lives"), "lives")
	other := p.member(memoryLimit(700 << 20))
	p.Equal("output of a new one", in(other, "echo lives"), "lives")
	other.DeleteForced()
	killed := p.member()
	p.Signal(killed.Pid, unix.SIGKILL)
	p.Equal("exit code of a member whose shim was killed", killed.Wait(exitLimit), 137)
	killed.Delete()
	last := p.member()
	p.Equal("output of a last one", in(last, "echo lives"), "lives")
	last.DeleteForced()
	p.Equal("the pod's machine", p.SandboxPids(p.id).VM, vm)
	p.infra.DeleteForced()
	if left := testenv.Processes("qemu-system-x86"); slices.Contains(left, vm) {
		t.Errorf("left of the pod: %v", left)
	}
	p.OK("doctor")
}
