package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

var outputs = &api.Stdio{Stdout: true, Stderr: true}

func config(script string) []byte {
	return fmt.Appendf(nil, `{"process":{"args":["/bin/sh","-c",%q]},"root":{"path":"rootfs"}}`, script)
}

func (r *rig) create(t *testing.T, name string, stdio *api.Stdio, script string) {
	t.Helper()
	_, err := r.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: name, ShareTag: "t0", Spec: config(script), Stdio: stdio})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rig) start(t *testing.T, name string) {
	t.Helper()
	if _, err := r.StartContainer(testContext(t), &api.ContainerRequest{Container: name}); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) open(t *testing.T, kind api.Kind, name, process string) net.Conn {
	t.Helper()
	conn, err := r.OpenStream(testContext(t), kind, name, process)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

func (r *rig) wantExit(t *testing.T, name, process string, code uint32) {
	t.Helper()
	got, err := r.WaitProcess(testContext(t), &api.ProcessRequest{Container: name, Process: process})
	if err != nil || got.GetExitCode() != code {
		t.Errorf("exit %v, %v; want %d", got, err, code)
	}
}

func wantOutput(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil || string(b) != want {
		t.Errorf("output %q, %v; want %q", b, err, want)
	}
}

// wantNothing checks that no file of any container is left.
func (r *rig) wantNothing(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"c", "crun", "calls"} {
		entries, err := os.ReadDir(filepath.Join(r.dir, dir))
		if err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
	if len(r.shares.mounted) > 0 {
		t.Errorf("left mounted: %v", r.shares.mounted)
	}
}

func (r *rig) remove(t *testing.T, name string) {
	t.Helper()
	if _, err := r.RemoveContainer(testContext(t), &api.ContainerRequest{Container: name}); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func TestLifecycle(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", &api.Stdio{Stdin: true, Stdout: true, Stderr: true}, "cat; echo err >&2; exit 3")
	out, in := r.open(t, api.KindStdout, "c", ""), r.open(t, api.KindStdin, "c", "")
	r.start(t, "c")
	if _, err := r.StartContainer(testContext(t), &api.ContainerRequest{Container: "c"}); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("start twice: %v", err)
	}
	io.WriteString(in, "hello\n")
	in.Close()
	wantOutput(t, out, "hello\n")
	wantOutput(t, r.open(t, api.KindStderr, "c", ""), "err\n")
	r.wantExit(t, "c", "", 3)
	r.wantExit(t, "c", "", 3)
	_, err := r.ExecProcess(testContext(t), &api.ExecProcessRequest{Container: "c", Process: "p", Spec: []byte(`{"args":["true"]}`)})
	if !errors.Is(err, syscall.ESRCH) {
		t.Errorf("exec after the end: %v", err)
	}
	r.remove(t, "c")
	r.remove(t, "c")
	r.wantNothing(t)
	if _, err := r.WaitProcess(testContext(t), &api.ProcessRequest{Container: "c"}); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("wait after removal: %v", err)
	}
}

func TestExec(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", nil, "sleep 1000")
	r.start(t, "c")
	exec := func(process, script string) error {
		_, err := r.ExecProcess(testContext(t), &api.ExecProcessRequest{
			Container: "c", Process: process, Stdio: outputs, Spec: fmt.Appendf(nil, `{"args":["/bin/sh","-c",%q]}`, script)})
		return err
	}
	if err := exec("p", "echo out; sleep 1000 & exit 4"); err != nil {
		t.Fatal(err)
	}
	// A descendant holds the pipe: the output ends all the same.
	wantOutput(t, r.open(t, api.KindStdout, "c", "p"), "out\n")
	r.wantExit(t, "c", "p", 4)
	if err := exec("p", "true"); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("name in use: %v", err)
	}
	if err := exec("", "true"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("no name: %v", err)
	}
	r.remove(t, "c")
	r.wantNothing(t)
}

func TestCreateFails(t *testing.T) {
	r := newRig(t)
	ctx := testContext(t)
	for _, test := range []struct {
		name string
		req  *api.CreateContainerRequest
		want error
	}{
		{"missing executable", &api.CreateContainerRequest{Container: "c", ShareTag: "t0", Stdio: outputs,
			Spec: []byte(`{"process":{"args":["/nothing"]},"root":{"path":"rootfs"}}`)}, syscall.ENOENT},
		{"bad name", &api.CreateContainerRequest{Container: "../c", ShareTag: "t0", Spec: config("true")}, syscall.EINVAL},
		{"bad tag", &api.CreateContainerRequest{Container: "c", ShareTag: "", Spec: config("true")}, syscall.EINVAL},
		{"bad spec", &api.CreateContainerRequest{Container: "c", ShareTag: "t0", Spec: []byte(`{}`)}, syscall.EINVAL},
		{"bad spec, no device yet", &api.CreateContainerRequest{Container: "c", ShareTag: "never", Spec: []byte(`{}`)}, syscall.EINVAL},
	} {
		if _, err := r.CreateContainer(ctx, test.req); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		r.wantNothing(t)
	}
	r.create(t, "c", nil, "sleep 1000")
	if _, err := r.CreateContainer(ctx, &api.CreateContainerRequest{Container: "c", ShareTag: "t1", Spec: config("true")}); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("name in use: %v", err)
	}
}

// TestRemoveCancels: a removal ends a creation that waits.
func TestRemoveCancels(t *testing.T) {
	r := newRig(t)
	failed := make(chan error)
	go func() {
		_, err := r.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: "c", ShareTag: "never", Spec: config("true")})
		failed <- err
	}()
	for {
		if _, err := r.ListProcesses(testContext(t), &api.ContainerRequest{Container: "c"}); err == nil {
			break
		}
	}
	r.remove(t, "c")
	if err := <-failed; err == nil {
		t.Error("create has succeeded")
	}
	r.wantNothing(t)
}

// TestRemoveOvertakes: a removal that is there before the creation that it is about
// ends that as well: its caller has gone, and took the files along.
func TestRemoveOvertakes(t *testing.T) {
	r := newRig(t)
	r.remove(t, "c")
	_, err := r.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: "c", ShareTag: "t0", Spec: config("true")})
	if !errors.Is(err, syscall.ECANCELED) {
		t.Errorf("create: %v, want ECANCELED", err)
	}
	r.wantNothing(t)
	r.create(t, "another", outputs, "true")
	for i := range 2 * maxUnmade { // a host that asks for anything
		r.remove(t, fmt.Sprintf("none%d", i))
	}
	r.remove(t, "another")
	r.wantNothing(t)
}

func TestRemoveCanBeRepeated(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", outputs, "sleep 1000")
	r.shares.setBroken(true)
	if _, err := r.RemoveContainer(testContext(t), &api.ContainerRequest{Container: "c"}); !errors.Is(err, syscall.EBUSY) {
		t.Errorf("remove: %v, want EBUSY", err)
	}
	r.wantExit(t, "c", "", 137) // the other steps were done
	r.shares.setBroken(false)
	r.remove(t, "c")
	r.wantNothing(t)
}

// TestStuckInItsFiles has a creation wait for a file server that was killed, for ever.
// It is in nobody's way, whatever their ids are, and the share is left alone until
// then: to unmount it would wait as well, and have all others wait.
func TestStuckInItsFiles(t *testing.T) {
	r := newRig(t)
	r.shares.answers = make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		_, err := r.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: "c", Id: "web", ShareTag: "dead", Spec: config("true")})
		failed <- err
	}()
	<-r.shares.answers // it has begun
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	stuck, err := r.server.container("c")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.server.remove(ctx, stuck); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("remove: %v", err)
	}
	if _, err := r.server.byID("web"); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("one that is being removed is found: %v", err)
	}
	_, err = r.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: "d", Id: "web", ShareTag: "t1", Spec: config("echo lives"), Stdio: outputs})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := r.server.byID("web"); err != nil || c.name != "d" {
		t.Errorf("the one that lives: %v", err)
	}
	r.start(t, "d")
	wantOutput(t, r.open(t, api.KindStdout, "d", ""), "lives\n")
	r.remove(t, "d")
	if got := r.shares.unmounts(); !slices.Equal(got, []string{filepath.Join(r.dir, "c", "d", "share")}) {
		t.Errorf("unmounted: %q", got)
	}
	close(r.shares.answers)
	r.remove(t, "c")
	if err := <-failed; err == nil {
		t.Error("create has succeeded")
	}
	r.wantNothing(t)
}

func TestSignals(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", outputs, "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done")
	out := r.open(t, api.KindStdout, "c", "")
	r.start(t, "c")
	io.ReadFull(out, make([]byte, len("ready\n")))
	for _, sig := range []uint32{65, 1 << 31} {
		if _, err := r.SignalProcess(testContext(t), &api.SignalProcessRequest{Container: "c", Signal: sig}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("signal %d: %v", sig, err)
		}
	}
	if _, err := r.SignalProcess(testContext(t), &api.SignalProcessRequest{Container: "c", Signal: uint32(syscall.SIGUSR1)}); err != nil {
		t.Error(err)
	}
	r.wantExit(t, "c", "", 9)
	if _, err := r.SignalProcess(testContext(t), &api.SignalProcessRequest{Container: "c", Signal: 15}); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := r.ResizeConsole(testContext(t), &api.ResizeConsoleRequest{Container: "c"}); !errors.Is(err, syscall.ENOTTY) {
		t.Errorf("resize without a terminal: %v", err)
	}
}

// TestOutputIsComplete: every byte arrives although the process has ended
// before the host reads.
func TestOutputIsComplete(t *testing.T) {
	r := newRig(t)
	for _, size := range []int{0, 1, 65536, 3 << 20} {
		r.create(t, "c", outputs, fmt.Sprintf("head -c %d /dev/zero; head -c %d /dev/zero >&2", size, min(size, 65536)))
		out := r.open(t, api.KindStdout, "c", "")
		r.start(t, "c")
		b, err := io.ReadAll(out)
		if err != nil || len(b) != size {
			t.Errorf("stdout: %d bytes of %d, %v", len(b), size, err)
		}
		r.wantExit(t, "c", "", 0)
		b, err = io.ReadAll(r.open(t, api.KindStderr, "c", ""))
		if err != nil || len(b) != min(size, 65536) {
			t.Errorf("stderr: %d bytes, %v", len(b), err)
		}
		r.remove(t, "c")
	}
}

func TestHostGoesAway(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", outputs, "trap '' PIPE; while echo x; do :; done; exit 6")
	out := r.open(t, api.KindStdout, "c", "")
	r.start(t, "c")
	io.CopyN(io.Discard, out, 100)
	out.Close()
	r.wantExit(t, "c", "", 6)
}

func TestStreamOnce(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", outputs, "echo x")
	first := r.open(t, api.KindStdout, "c", "")
	r.start(t, "c")
	wantOutput(t, first, "x\n")
	for _, kind := range []api.Kind{api.KindStdout, api.KindConsole} {
		wantOutput(t, r.open(t, kind, "c", ""), "")
	}
	wantOutput(t, r.open(t, api.KindStdout, "none", ""), "")
	wantOutput(t, r.open(t, api.KindStdout, "c", "none"), "")
}

func TestStdinUnread(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", &api.Stdio{Stdin: true}, "exec <&-; sleep 1000")
	in := r.open(t, api.KindStdin, "c", "")
	r.start(t, "c")
	_, err := io.Copy(in, zeros{})
	if !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestSessions: a container outlives the session it was made in.
func TestSessions(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", outputs, "read x; echo later")
	r.Close()
	<-r.Done()
	if _, err := r.ListProcesses(testContext(t), &api.ContainerRequest{Container: "c"}); err == nil {
		t.Error("call in a session that has ended")
	}
	r.Client = r.session(t)
	r.start(t, "c")
	wantOutput(t, r.open(t, api.KindStdout, "c", ""), "later\n")
	r.wantExit(t, "c", "", 0)
}

func TestGreetRefusesProtocol(t *testing.T) {
	var rw struct {
		io.Reader
		io.Writer
	}
	rw.Reader, rw.Writer = strings.NewReader(`{"protocol":99}`+"\n"), io.Discard
	if _, err := Greet(rw, api.Hello{Protocol: 1}); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("got %v", err)
	}
}

// FuzzServeStream feeds whole streams, headers included.
func FuzzServeStream(f *testing.F) {
	f.Add([]byte(`{"kind":"stdout","container":"c"}` + "\n"))
	f.Add([]byte(`{"kind":"stdin","container":"x","process":"y"}` + "\nabc"))
	f.Add(bytes.Repeat([]byte("x"), 20000))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New(Config{Log: discard()})
		calls := newHandoff()
		calls.Close()
		host, guest := net.Pipe()
		go func() {
			host.Write(data)
			host.Close()
		}()
		s.serveStream(guest, calls)
		if _, err := guest.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the stream was left open: %v", err)
		}
	})
}

// TestForward connects to a port of the guest's localhost, each direction for
// itself, and is told where nobody listens.
func TestForward(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		asked, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "you said %s", asked)
	}()
	conn, err := r.Forward(testContext(t), port)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if b, err := io.ReadAll(conn); err != nil || string(b) != "you said hello" {
		t.Errorf("got %q, %v", b, err)
	}
	l.Close()
	if _, err := r.Forward(testContext(t), port); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
}

// A process that was started in a container is forgotten when its end has been
// told and its streams are done: what stays would fill the guest, since its host
// asks for a process every few seconds.
func TestExecLeavesNothing(t *testing.T) {
	r := newRig(t)
	r.create(t, "c", outputs, "sleep 1000")
	r.start(t, "c")
	c, err := r.server.container("c")
	if err != nil {
		t.Fatal(err)
	}
	known := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.procs)
	}
	for _, stdio := range []*api.Stdio{{Stdin: true, Stdout: true, Stderr: true}, outputs, {}} {
		_, err := r.ExecProcess(testContext(t), &api.ExecProcessRequest{
			Container: "c", Process: "p", Spec: []byte(`{"args":["/bin/sh","-c","echo out; echo err >&2; exit 4"]}`), Stdio: stdio,
		})
		if err != nil {
			t.Fatal(err)
		}
		r.wantExit(t, "c", "p", 4) // before its output is asked for
		if stdio.GetStdin() {
			r.open(t, api.KindStdin, "c", "p").Close()
		}
		if stdio.GetStdout() {
			if known() != 2 {
				t.Error("it was forgotten before it was heard")
			}
			wantOutput(t, r.open(t, api.KindStdout, "c", "p"), "out\n")
			wantOutput(t, r.open(t, api.KindStderr, "c", "p"), "err\n")
		}
		for deadline := time.Now().Add(20 * time.Second); known() != 1; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%v: %d processes are known", stdio, known())
			}
		}
	}
	if _, err := r.WaitProcess(testContext(t), &api.ProcessRequest{Container: "c", Process: "p"}); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("wait again: %v", err)
	}
}
