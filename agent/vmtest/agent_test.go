package vmtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

var outputs = &api.Stdio{Stdout: true, Stderr: true}

// TestAgent runs everything in one virtual machine.
func TestAgent(t *testing.T) {
	m := boot(t, 2)
	for _, test := range []struct {
		name string
		f    func(*testing.T)
	}{
		{"echo", m.testEcho}, {"echo again", m.testEcho},
		{"create errors", m.testCreateErrors},
		{"exec", m.testExec}, {"exec errors", m.testExecErrors},
		{"stdin", m.testStdin}, {"stdin unread", m.testStdinUnread},
		{"terminal", m.testTerminal}, {"exec terminal", m.testExecTerminal},
		{"large output", m.testLargeOutput}, {"slow host", m.testSlowHost}, {"broken pipe", m.testBrokenPipe},
		{"descendant holds the pipe", m.testDescendant},
		{"signals", m.testSignals}, {"oom", m.testOOM},
		{"remove while running", m.testRemoveRunning}, {"remove cancels", m.testRemoveCancels},
		{"control", m.testControl}, {"bind", m.testBind}, {"two containers", m.testTwo}, {"cycles", m.testCycles},
	} {
		t.Run(test.name, test.f)
	}
}

func (m *machine) testEcho(t *testing.T) {
	m.create(t, "echo", outputs, spec([]string{"echo", "hi"}))
	out := m.open(t, api.KindStdout, "echo", "")
	start := time.Now()
	m.start(t, "echo")
	wantOutput(t, out, "hi\n")
	m.wantExit(t, "echo", "", 0)
	m.wantExit(t, "echo", "", 0) // can be asked again
	t.Logf("start to exit: %v", time.Since(start).Round(time.Millisecond))
}

func wantOutput(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil || string(b) != want {
		t.Errorf("output %q, %v; want %q", b, err, want)
	}
}

func (m *machine) wantExit(t *testing.T, name, process string, code uint32) {
	t.Helper()
	if r := m.wait(t, name, process); r.GetExitCode() != code {
		t.Errorf("exit code %d, want %d", r.GetExitCode(), code)
	}
}

var execErrors = []struct {
	arg0, text string
	errno      syscall.Errno
}{
	{"nothing", `exec: "nothing": executable file not found in $PATH`, syscall.ENOENT},
	{"/nothing", `exec: "/nothing": stat /nothing: no such file or directory`, syscall.ENOENT},
	{"./nothing", `exec: "./nothing": stat ./nothing: no such file or directory`, syscall.ENOENT},
	{"/bin/noexec", `exec: "/bin/noexec": permission denied`, syscall.EACCES},
	{"/bin", `exec: "/bin": permission denied`, syscall.EACCES},
	{"noexec", `exec: "noexec": executable file not found in $PATH`, syscall.ENOENT},
}

func (m *machine) testCreateErrors(t *testing.T) {
	for _, e := range execErrors {
		// The same name each time: a failed create leaves nothing behind.
		_, err := m.CreateContainer(testContext(t), &api.CreateContainerRequest{
			Container: "bad", Spec: spec([]string{e.arg0}), ShareTag: "t0", Stdio: outputs})
		if err == nil || err.Error() != e.text || !errors.Is(err, e.errno) {
			t.Errorf("create %q: %v, want %q", e.arg0, err, e.text)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err := m.CreateContainer(ctx, &api.CreateContainerRequest{Container: "late", Spec: spec(sh("true")), ShareTag: "none"})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("create without a share: %v", err)
	}
	m.create(t, "twice", nil, spec(sh("true")))
	_, err = m.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: "twice", Spec: spec(sh("true")), ShareTag: "t0"})
	if !errors.Is(err, syscall.EEXIST) {
		t.Errorf("create twice: %v", err)
	}
}

// sleeper runs a container that sleeps.
func (m *machine) sleeper(t *testing.T, name string) {
	t.Helper()
	m.create(t, name, nil, spec([]string{"sleep", "1000"}))
	m.start(t, name)
}

func (m *machine) exec(t *testing.T, name, process string, stdio *api.Stdio, args ...string) {
	t.Helper()
	start := time.Now()
	_, err := m.ExecProcess(testContext(t), &api.ExecProcessRequest{Container: name, Process: process, Spec: processSpec(args...), Stdio: stdio})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("exec: %v", time.Since(start).Round(time.Millisecond))
}

func (m *machine) testExec(t *testing.T) {
	m.sleeper(t, "c")
	for i := range 5 {
		p := fmt.Sprintf("p%d", i)
		m.exec(t, "c", p, outputs, sh(fmt.Sprintf("echo out%d", i), fmt.Sprintf("echo err%d >&2; exit %d", i, i))...)
		wantOutput(t, m.open(t, api.KindStdout, "c", p), fmt.Sprintf("out%d\n", i))
		wantOutput(t, m.open(t, api.KindStderr, "c", p), fmt.Sprintf("err%d\n", i))
		m.wantExit(t, "c", p, uint32(i))
	}
	// What has been told, with its output, is forgotten.
	for ctx := testContext(t); ; time.Sleep(time.Millisecond) {
		_, err := m.WaitProcess(ctx, &api.ProcessRequest{Container: "c", Process: "p3"})
		if errors.Is(err, syscall.ESRCH) {
			break
		}
		if err != nil {
			t.Fatalf("wait again: %v", err)
		}
	}
	m.exec(t, "c", "busy", nil, "sleep", "1000")
	_, err := m.ExecProcess(testContext(t), &api.ExecProcessRequest{Container: "c", Process: "busy", Spec: processSpec("true")})
	if !errors.Is(err, syscall.EEXIST) {
		t.Errorf("exec by a name in use: %v", err)
	}
}

func (m *machine) testExecErrors(t *testing.T) {
	m.sleeper(t, "c")
	for _, e := range execErrors {
		_, err := m.ExecProcess(testContext(t), &api.ExecProcessRequest{
			Container: "c", Process: "bad", Spec: processSpec(e.arg0), Stdio: outputs})
		if err == nil || err.Error() != e.text || !errors.Is(err, e.errno) {
			t.Errorf("exec %q: %v, want %q", e.arg0, err, e.text)
		}
		_, err = m.ExecProcess(testContext(t), &api.ExecProcessRequest{
			Container: "c", Process: "bad", Spec: processSpec(e.arg0), Stdio: &api.Stdio{Terminal: true}})
		if err == nil || err.Error() != e.text {
			t.Errorf("exec %q with a terminal: %v, want %q", e.arg0, err, e.text)
		}
	}
	m.signal(t, "c", syscall.SIGKILL, false)
	m.wantExit(t, "c", "", 137)
	_, err := m.ExecProcess(testContext(t), &api.ExecProcessRequest{Container: "c", Process: "p", Spec: processSpec("true")})
	if !errors.Is(err, syscall.ESRCH) {
		t.Errorf("exec in a stopped container: %v", err)
	}
}

func (m *machine) testStdin(t *testing.T) {
	m.create(t, "c", &api.Stdio{Stdin: true, Stdout: true}, spec([]string{"cat"}))
	in := m.open(t, api.KindStdin, "c", "")
	out := m.open(t, api.KindStdout, "c", "")
	if _, err := io.WriteString(in, "before start\n"); err != nil {
		t.Fatal(err)
	}
	m.start(t, "c")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	go func() {
		in.Write(data)
		in.Close()
	}()
	b, err := io.ReadAll(out)
	if err != nil || string(b) != "before start\n"+string(data) {
		t.Errorf("got %d bytes, %v", len(b), err)
	}
	m.wantExit(t, "c", "", 0)
}

func (m *machine) testStdinUnread(t *testing.T) {
	m.create(t, "c", &api.Stdio{Stdin: true}, spec(sh("exec <&-", "sleep 1000")))
	in := m.open(t, api.KindStdin, "c", "")
	m.start(t, "c")
	buf := make([]byte, 64<<10)
	for i := 0; ; i++ {
		if _, err := in.Write(buf); err != nil {
			if !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("write: %v", err)
			}
			return
		}
		if i > 10000 {
			t.Fatal("input that nobody reads is taken without end")
		}
	}
}

func (m *machine) testTerminal(t *testing.T) {
	m.create(t, "c", &api.Stdio{Terminal: true}, spec(sh("tty", "read x", "echo got $x", "stty size", "exit 3")))
	if _, err := m.ResizeConsole(testContext(t), &api.ResizeConsoleRequest{Container: "c", Width: 123, Height: 45}); err != nil {
		t.Error(err)
	}
	con := m.open(t, api.KindConsole, "c", "")
	m.start(t, "c")
	io.WriteString(con, "hello\n")
	b, err := io.ReadAll(con)
	for _, want := range []string{"/dev/pts/0\r\n", "got hello\r\n", "45 123\r\n"} {
		if err != nil || !strings.Contains(string(b), want) {
			t.Errorf("terminal: %q, %v; want %q", b, err, want)
		}
	}
	m.wantExit(t, "c", "", 3)
}

func (m *machine) testExecTerminal(t *testing.T) {
	m.sleeper(t, "c")
	m.exec(t, "c", "p", &api.Stdio{Terminal: true}, sh("tty", "head -c 300000 /dev/zero", "echo end")...)
	b, err := io.ReadAll(m.open(t, api.KindConsole, "c", "p"))
	if err != nil || !bytes.HasSuffix(b, []byte("end\r\n")) || len(b) < 300000 {
		t.Errorf("terminal: %d bytes, %v", len(b), err)
	}
	m.wantExit(t, "c", "p", 0)
}

func (m *machine) testLargeOutput(t *testing.T) {
	const size = 20 << 20
	m.create(t, "c", outputs, spec(sh(fmt.Sprintf("yes 0123456789 | head -c %d", size))))
	out := m.open(t, api.KindStdout, "c", "")
	start := time.Now()
	m.start(t, "c")
	h := sha256.New()
	n, err := io.Copy(h, out)
	want := sha256.Sum256(bytes.Repeat([]byte("0123456789\n"), size/11+1)[:size])
	if err != nil || n != size || !bytes.Equal(h.Sum(nil), want[:]) {
		t.Errorf("%d bytes, %v", n, err)
	}
	t.Logf("%.1f MB/s", float64(n)/1e6/time.Since(start).Seconds())
	m.wantExit(t, "c", "", 0)
}

// testSlowHost connects only after the process has ended, and while another
// stream that is not read is full.
func (m *machine) testSlowHost(t *testing.T) {
	m.create(t, "slow", outputs, spec(sh("yes")))
	full := m.open(t, api.KindStdout, "slow", "")
	m.start(t, "slow")
	m.exec(t, "slow", "p", outputs, sh("head -c 60000 /dev/zero")...)
	m.wantExit(t, "slow", "p", 0)
	b, err := io.ReadAll(m.open(t, api.KindStdout, "slow", "p"))
	if err != nil || len(b) != 60000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if n, err := io.CopyN(io.Discard, full, 1<<20); err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// testBrokenPipe: when the host closes an output the process gets SIGPIPE.
func (m *machine) testBrokenPipe(t *testing.T) {
	m.create(t, "c", outputs, spec([]string{"yes"}))
	out := m.open(t, api.KindStdout, "c", "")
	m.start(t, "c")
	io.CopyN(io.Discard, out, 1000)
	out.Close()
	// yes is PID 1 of its namespace and so does not die of SIGPIPE, but of
	// the failed write.
	if r := m.wait(t, "c", ""); r.GetExitCode() == 0 {
		t.Errorf("exit %v", r)
	}
}

func (m *machine) testDescendant(t *testing.T) {
	m.sleeper(t, "c")
	m.exec(t, "c", "p", outputs, sh("sleep 1000 & echo done")...)
	out := m.open(t, api.KindStdout, "c", "p")
	wantOutput(t, out, "done\n")
	m.wantExit(t, "c", "p", 0)
}

func (m *machine) signal(t *testing.T, name string, sig syscall.Signal, all bool) {
	t.Helper()
	if _, err := m.SignalProcess(testContext(t), &api.SignalProcessRequest{Container: name, Signal: uint32(sig), All: all}); err != nil {
		t.Errorf("signal %v: %v", sig, err)
	}
}

func (m *machine) testSignals(t *testing.T) {
	m.create(t, "c", outputs, spec(sh("trap 'echo term; exit 5' TERM", "echo ready", "while :; do sleep 0.1; done")))
	out := m.open(t, api.KindStdout, "c", "")
	m.start(t, "c")
	io.ReadFull(out, make([]byte, len("ready\n")))
	m.signal(t, "c", 0, false)
	m.signal(t, "c", syscall.SIGTERM, false)
	wantOutput(t, out, "term\n")
	m.wantExit(t, "c", "", 5)
	_, err := m.SignalProcess(testContext(t), &api.SignalProcessRequest{Container: "c", Signal: 15})
	if !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal after the end: %v", err)
	}
	_, err = m.SignalProcess(testContext(t), &api.SignalProcessRequest{Container: "none", Signal: 15})
	if !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal to an unknown container: %v", err)
	}
	m.sleeper(t, "all")
	m.signal(t, "all", syscall.SIGKILL, true)
	m.wantExit(t, "all", "", 137)
}

func (m *machine) testOOM(t *testing.T) {
	limited := spec(sh("dd if=/dev/zero of=/dev/null bs=64M count=1"), func(s map[string]any) {
		s["linux"].(map[string]any)["resources"] = map[string]any{"memory": map[string]any{"limit": 8 << 20}}
	})
	m.create(t, "c", nil, limited)
	m.start(t, "c")
	if r := m.wait(t, "c", ""); !r.GetOom() || r.GetExitCode() == 0 {
		t.Errorf("exit %v, want an OOM", r)
	}
}

func (m *machine) testRemoveRunning(t *testing.T) {
	script := sh("sleep 1000 & sleep 1000 & while :; do sh -c 'echo x > /f; sleep 0.01'; done")
	m.create(t, "running", outputs, spec(script))
	out := m.open(t, api.KindStdout, "running", "")
	m.start(t, "running")
	m.exec(t, "running", "p", outputs, script...)
	m.remove(t, "running")
	if _, err := io.ReadAll(out); err != nil {
		t.Errorf("stream after removal: %v", err)
	}
	m.remove(t, "running")
	_, err := m.WaitProcess(testContext(t), &api.ProcessRequest{Container: "running"})
	if !errors.Is(err, syscall.ESRCH) {
		t.Errorf("wait after removal: %v", err)
	}
	m.sleeper(t, "next") // everything can be used again
}

// testRemoveCancels removes a container whose creation waits for a share.
func (m *machine) testRemoveCancels(t *testing.T) {
	failed := make(chan error, 1)
	go func() {
		_, err := m.CreateContainer(testContext(t), &api.CreateContainerRequest{Container: "w", Spec: spec(sh("true")), ShareTag: "none"})
		failed <- err
	}()
	for { // until the name is taken
		_, err := m.ListProcesses(testContext(t), &api.ContainerRequest{Container: "w"})
		if err == nil {
			break
		}
	}
	m.remove(t, "w")
	if err := <-failed; err == nil {
		t.Error("create has succeeded")
	}
}

func (m *machine) testControl(t *testing.T) {
	m.sleeper(t, "c")
	ctx, req := testContext(t), &api.ContainerRequest{Container: "c"}
	if r, err := m.ListProcesses(ctx, req); err != nil || len(r.GetPids()) != 1 {
		t.Errorf("processes %v, %v", r, err)
	}
	if _, err := m.PauseContainer(ctx, req); err != nil {
		t.Errorf("pause: %v", err)
	}
	if r, err := m.ContainerStats(ctx, req); err != nil || !strings.Contains(r.GetFiles()["cgroup.events"], "frozen 1") {
		t.Errorf("stats of a paused container: %v, %v", r, err)
	}
	_, err := m.ExecProcess(ctx, &api.ExecProcessRequest{Container: "c", Process: "p", Spec: processSpec("true")})
	if err == nil || !strings.Contains(err.Error(), "is paused") {
		t.Errorf("exec in a paused container: %v", err)
	}
	if _, err := m.ResumeContainer(ctx, req); err != nil {
		t.Errorf("resume: %v", err)
	}
	if _, err := m.UpdateContainer(ctx, &api.UpdateContainerRequest{Container: "c", Resources: []byte(`{"pids":{"limit":77}}`)}); err != nil {
		t.Errorf("update: %v", err)
	}
	r, err := m.ContainerStats(ctx, req)
	if err != nil || r.GetFiles()["pids.max"] != "77\n" || r.GetFiles()["memory.stat"] == "" || r.GetFiles()["cpu.stat"] == "" {
		t.Errorf("stats: %v, %v", r, err)
	}
	if _, err := m.PauseContainer(ctx, req); err != nil { // a frozen one can be removed
		t.Errorf("pause: %v", err)
	}
}

func (m *machine) testBind(t *testing.T) {
	m.create(t, "bind", outputs, spec(sh("echo written > /mnt/f", "echo root > /tmp/f")))
	m.start(t, "bind")
	m.wantExit(t, "bind", "", 0)
	m.remove(t, "bind")
	for path, want := range map[string]string{"m/0/f": "written\n", "rootfs/tmp/f": "root\n"} {
		if b, err := os.ReadFile(filepath.Join(m.shares[0], path)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
}

func (m *machine) testTwo(t *testing.T) {
	var wg sync.WaitGroup
	for i, tag := range []string{"t0", "t1"} {
		wg.Go(func() {
			name := "two" + tag
			_, err := m.CreateContainer(testContext(t), &api.CreateContainerRequest{
				Container: name, Spec: spec(sh(fmt.Sprintf("exit %d", i+1))), ShareTag: tag, Stdio: outputs})
			if err != nil {
				t.Error(err)
				return
			}
			m.start(t, name)
			m.wantExit(t, name, "", uint32(i+1))
			m.remove(t, name)
		})
	}
	wg.Wait()
}

// testCycles runs containers and execs with hashed output, one after the
// other. VC_CYCLES sets how many.
func (m *machine) testCycles(t *testing.T) {
	cycles := 5
	if v := os.Getenv("VC_CYCLES"); v != "" {
		if _, err := fmt.Sscan(v, &cycles); err != nil {
			t.Fatal(err)
		}
	}
	want := sha256.Sum256(bytes.Repeat([]byte("0123456789\n"), 100000))
	for range cycles {
		m.create(t, "cycle", outputs, spec(sh("yes 0123456789 | head -n 100000", "exec sleep 1000")))
		outs := []io.Reader{m.open(t, api.KindStdout, "cycle", "")}
		m.start(t, "cycle")
		m.exec(t, "cycle", "p", outputs, sh("yes 0123456789 | head -n 100000")...)
		outs = append(outs, m.open(t, api.KindStdout, "cycle", "p"))
		for _, out := range outs {
			h := sha256.New()
			n, err := io.CopyN(h, out, 1100000)
			if err != nil || !bytes.Equal(h.Sum(nil), want[:]) {
				t.Fatalf("output differs after %d bytes, %v", n, err)
			}
		}
		m.wantExit(t, "cycle", "p", 0)
		m.remove(t, "cycle")
	}
}
