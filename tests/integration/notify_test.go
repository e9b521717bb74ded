package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// serviceManager is the socket of a service manager (sd_notify(3)).
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
}

// managed is surroundings in which the runtime is a service's.
func managed(t *testing.T) (*testenv.Env, serviceManager) {
	t.Helper()
	e := suite.New(t)
	path := e.Path("manager.sock")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	e.Vars = append(e.Vars, "NOTIFY_SOCKET="+path)
	return e, serviceManager{t, conn}
}

// message gives the next one. A barrier is let go.
func (m serviceManager) message(limit time.Duration) string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		m.t.Fatal(err)
	}
	text, oob := make([]byte, 8192), make([]byte, 1024)
	n, oobn, _, _, err := m.conn.ReadMsgUnix(text, oob)
	if err != nil {
		return err.Error()
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		m.t.Fatal(err)
	}
	for _, msg := range msgs {
		fds, err := unix.ParseUnixRights(&msg)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, fd := range fds {
			unix.Close(fd)
		}
	}
	return string(text[:n])
}

// isTold checks that the manager is told what runc tells, and nothing else.
func (m serviceManager) isTold(e *testenv.Env, mainPid int) {
	m.t.Helper()
	want := []string{"READY=1\n", fmt.Sprintf("MAINPID=%d\n", mainPid)}
	if e.IsVM() {
		want = append(want, "BARRIER=1") // runc 1.5
	}
	for _, text := range want {
		if got := m.message(exitLimit); got != text {
			m.t.Errorf("the manager is told %q, want %q", got, text)
		}
	}
}

// silent checks that nothing has been said.
func (m serviceManager) silent() {
	m.t.Helper()
	if got := m.message(time.Millisecond); !strings.Contains(got, "timeout") {
		m.t.Errorf("the manager is told %q", got)
	}
}

// begin runs the runtime aside; the function it gives waits for its end.
func begin(e *testenv.Env, cmd testenv.Command) func() *testenv.Result {
	type end struct {
		res *testenv.Result
		err error
	}
	ended := make(chan end, 1)
	go func() {
		cmd.Path, cmd.Env, cmd.Args = e.Runtime, append([]string{"XDG_RUNTIME_DIR="}, e.Vars...), append(e.Globals(), cmd.Args...)
		res, err := e.Exec(cmd)
		ended <- end{res, err}
	}()
	return func() *testenv.Result {
		e.Helper()
		got := <-ended
		if got.err != nil {
			e.Fatal(got.err)
		}
		return got.res
	}
}

// beReady waits for the file go, and says then that the container is ready.
const beReady = "echo $NOTIFY_SOCKET; touch /waiting; while [ ! -e /go ]; do sleep 0.1; done; probe notify $NOTIFY_SOCKET && touch /said; exec sleep 1000"

// TestNotify: a container tells the service manager of the one who starts it
// when it is ready, and nothing else; `start` waits for that.
func TestNotify(t *testing.T) {
	let := func(e *testenv.Env, rootfs string) {
		if err := os.WriteFile(filepath.Join(rootfs, "go"), nil, 0o644); err != nil {
			e.Fatal(err)
		}
	}
	t.Run("start", func(t *testing.T) {
		e, manager := managed(t)
		c := e.Container(nil, testenv.Shell(beReady))
		started := begin(e, testenv.Command{Args: []string{"start", c.ID}})
		c.WaitFor("waiting")
		manager.silent()
		e.IsStatus(c.ID, "running")
		let(e, c.Bundle.Rootfs)
		c.WaitFor("said")
		manager.isTold(e, c.Pid)
		if res := started(); res.Code != 0 || res.Stderr != "" {
			t.Error(res)
		}
		manager.silent()
		e.Equal("exec", e.OK("exec", c.ID, "sh", "-c", "echo $NOTIFY_SOCKET").Stdout, "\n")
		e.OK("kill", c.ID, "KILL")
		c.Wait(exitLimit)
		e.Equal("output", c.Stdout(), "/run/notify/notify.sock\nprobe notify ok\n")
		c.Delete()
	})
	t.Run("a user of a user namespace", func(t *testing.T) {
		e, manager := managed(t)
		b := e.Bundle(testenv.Shell("probe notify $NOTIFY_SOCKET; exec sleep 1000"), userNamespace)
		b.Spec.Process.User.UID = 1000
		b.Write(e)
		c := e.CreateFrom(b, nil)
		started := begin(e, testenv.Command{Args: []string{"start", c.ID}})
		manager.isTold(e, c.Pid)
		if res := started(); res.Code != 0 {
			t.Error(res)
		}
		c.DeleteForced()
	})
	t.Run("without a word", func(t *testing.T) {
		e, manager := managed(t)
		c := e.Container(nil, testenv.Shell("exit 3"))
		if res := begin(e, testenv.Command{Args: []string{"start", c.ID}})(); res.Code != 0 {
			t.Error(res)
		}
		e.Equal("exit code", c.Wait(exitLimit), 3)
		manager.silent()
		c.Delete()
	})
	t.Run("run", func(t *testing.T) {
		e, manager := managed(t)
		b := e.Bundle(testenv.Shell(beReady))
		let(e, b.Rootfs)
		id := e.ID()
		ran := begin(e, testenv.Command{Args: []string{"run", "--bundle", b.Dir, "--detach", id}, Null: true})
		ready := manager.message(exitLimit)
		e.Equal("first message", ready, "READY=1\n")
		var st testenv.State
		if err := json.Unmarshal([]byte(e.OK("state", id).Stdout), &st); err != nil {
			t.Fatal(err)
		}
		e.Equal("second message", manager.message(exitLimit), fmt.Sprintf("MAINPID=%d\n", st.Pid))
		if e.IsVM() {
			e.Equal("third message", manager.message(exitLimit), "BARRIER=1")
		}
		if res := ran(); res.Code != 0 {
			t.Error(res)
		}
		e.OK("delete", "--force", id)
	})
	t.Run("nobody listens", func(t *testing.T) {
		e := suite.New(t)
		e.NeedVM() // runc starts the container all the same
		e.Vars = append(e.Vars, "NOTIFY_SOCKET="+e.Path("none.sock"))
		c := e.Container(nil)
		res := begin(e, testenv.Command{Args: []string{"start", c.ID}})()
		if res.Code == 0 || !strings.Contains(res.Stderr, "NOTIFY_SOCKET: ") {
			t.Error(res)
		}
		e.IsStatus(c.ID, "created")
		c.DeleteForced()
	})
}
