package fault

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// faults are what happens at a point: it fails, its process dies, or another
// one does.
var faults = []string{"error", "kill", "monitor", "shim", "QEMU", "file server"}

// TestCovered takes containers through their lives, and finds every point on
// the way: the matrix has no place for one that nobody comes by.
func TestCovered(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	for _, p := range []failpoint.Name{
		failpoint.CreateBegin, failpoint.CreateConsole, failpoint.MonitorUnplug, failpoint.KillForce, failpoint.CreateUndo,
		failpoint.ExecForeground, failpoint.ExecPidFile, failpoint.CreateAdopt, failpoint.KillTerm, failpoint.KillSignal,
		failpoint.MonitorMakeTemplate, failpoint.MonitorPlugDisks, failpoint.MonitorGrow, failpoint.MonitorClearStale,
		failpoint.CreateEvict, failpoint.KillCreating, failpoint.StartTell,
	} {
		m := &matrix{world: w, point: pointOf(t, p), fault: "nothing"}
		m.live()
	}
	for _, p := range failpoint.Points {
		if !w.passed(string(p.Name)) {
			t.Errorf("nobody came by %s", p.Name)
		}
	}
}

func pointOf(t *testing.T, name failpoint.Name) failpoint.Point {
	t.Helper()
	for _, p := range failpoint.Points {
		if p.Name == name {
			return p
		}
	}
	t.Fatalf("%s is no point", name)
	return failpoint.Point{}
}

// live is the life of a container that comes by the point, without a fault.
func (m *matrix) live() {
	m.Helper()
	m.gate, m.met = m.newGate(), make(chan struct{})
	over, served := make(chan struct{}), make(chan struct{})
	go m.serveGate(over, served)
	m.prepare()
	m.verb()
	if m.point.Verb == failpoint.Exec {
		m.OK("kill", m.id, "KILL")
	}
	m.OK("delete", "--force", m.id)
	close(over)
	<-served
}

// matrix is one case: a point and what happens there.
type matrix struct {
	*world
	point      failpoint.Point
	fault      string
	pod        string // id of the sandbox to be in
	netns      string // and its network namespace
	console    bool
	frozen     bool // the monitor does not answer
	foreground bool
	adopts     bool   // an earlier create was killed
	evicts     bool   // and was for another request
	creating   bool   // create still runs when the verb comes, and then goes on
	created    int    // its exit code
	at         int    // which time at the point counts; 0 is every time
	before     func() // what happens to an earlier life of the container
	signal     string // for the kill
	options    []testenv.Option
	unchanged  func() error // says what is other than before
	arms       []string     // further points

	gate *gate
	met  chan struct{} // closed when the first program has come to the gate
	b    *testenv.Bundle
	id   string
	code int  // of the command with the point
	none bool // there was no such process to kill
}

// always are cases of the representative part too: they have found something.
var always = map[string]bool{
	"state.sync-folder/error": true, "monitor.create/file server": true, "monitor.remove/error": true,
}

func TestMatrix(t *testing.T) {
	warm(t)
	n := counts{state: times{bound: time.Second}, delete: times{bound: 5 * time.Second}}
	for i, p := range failpoint.Points {
		for j, fault := range faults {
			name := string(p.Name) + "/" + fault
			// The representative part has every fourth point, and all faults.
			if !everything() && (i%4 != 0 || j != i/4%len(faults)) && !always[name] {
				continue
			}
			t.Run(name, func(t *testing.T) {
				m := &matrix{world: newWorld(t), point: p, fault: fault}
				m.run(&n)
			})
		}
	}
	t.Logf("%d cases, and %d in which there was no such process to kill", n.cases, n.none)
	t.Logf("state: %s", &n.state)
	t.Logf("delete --force: %s", &n.delete)
}

func (m *matrix) run(n *counts) {
	m.gate, m.met = m.newGate(), make(chan struct{})
	over := make(chan struct{})
	served := make(chan struct{})
	go m.serveGate(over, served)
	m.prepare()
	m.verb()
	m.awaitPassed()
	close(over)
	<-served
	if m.none {
		n.none++
	} else {
		n.cases++
	}
	m.check(n)
}

// awaitPassed waits until the point was passed: some are passed by who is not
// waited for.
func (m *matrix) awaitPassed() {
	m.Helper()
	if m.fault != "error" && m.fault != "kill" {
		select {
		case <-m.met:
		case <-time.After(limit):
			m.Fatalf("nobody came by %s", m.point.Name)
		}
		return
	}
	testenv.Eventually(m, limit, func() error {
		if !m.passed(string(m.point.Name)) {
			return fmt.Errorf("nobody came by %s", m.point.Name)
		}
		return nil
	})
}

// prepare makes the bundle, and what the point needs to be passed.
func (m *matrix) prepare() {
	if prepare := special[m.point.Name]; prepare != nil {
		prepare(m)
	}
	options := []testenv.Option{testenv.Args("sleep", "1000")}
	if m.console {
		options = append(options, testenv.Terminal(80, 24))
	}
	if m.pod != "" {
		options = append(options, m.member()...)
	}
	if m.signal == "TERM" {
		options = append(options, testenv.Grace("1s")) // PID 1 does not obey
	}
	options = append(options, m.options...)
	m.b, m.id = m.Bundle(options...), m.ID()
}

// serveGate does to the victim what the case wants, when the first program has
// come to the point; others go on.
func (m *matrix) serveGate(over, served chan struct{}) {
	defer close(served)
	for first := true; ; first = false {
		p := m.gate.wait(over)
		if p == nil {
			return
		}
		if first {
			pids := victims(m.fault)
			m.none = len(pids) == 0
			for _, pid := range pids {
				unix.Kill(pid, unix.SIGKILL)
			}
			close(m.met)
		}
		p.let("go")
	}
}

// arm is what the program with the point is told.
func (m *matrix) arm() []string {
	action := m.fault
	if action != "error" && action != "kill" {
		action = m.gate.pause()
	}
	name := string(m.point.Name)
	if m.at != 0 {
		name += "@" + strconv.Itoa(m.at)
	}
	return append(m.arms, name+"="+action)
}

// forCommand is the world of the command whose verb the point belongs to,
// forRest that of a create before it: the monitor and the shim have their
// points from there.
func (m *matrix) forCommand() *world { return m.armed(m.arm()...) }

func (m *matrix) forRest() *world {
	if m.point.Process == failpoint.Command || m.point.Process == failpoint.Any {
		return m.world
	}
	return m.forCommand()
}

// inPod gives the case a pod to be in.
func (m *matrix) inPod() {
	m.pod = m.ID()
	b := m.Bundle(testenv.Args("sleep", "1000"),
		testenv.Annotation("io.kubernetes.cri-o.ContainerType", "sandbox"),
		testenv.Annotation("io.kubernetes.cri-o.SandboxID", m.pod))
	pid := m.Path("pod.pid")
	if res := m.forRest().call("create", "--bundle", b.Dir, "--pid-file", pid, m.pod); res.Code != 0 {
		m.Fatal(res)
	}
	m.netns = "/proc/" + m.Read(pid) + "/ns/net"
	// The one that is cleaned up first.
	m.Cleanup(func() { m.OK("delete", "--force", m.pod) })
}

// member makes a container one of the pod's.
func (m *matrix) member() []testenv.Option {
	return []testenv.Option{
		testenv.Annotation("io.kubernetes.cri-o.ContainerType", "container"),
		testenv.Annotation("io.kubernetes.cri-o.SandboxID", m.pod),
		func(s *specs.Spec) {
			for i, ns := range s.Linux.Namespaces {
				if ns.Type == specs.NetworkNamespace {
					s.Linux.Namespaces[i].Path = m.netns
				}
			}
		},
	}
}

// create runs create in a world, as often as a case wants.
func (m *matrix) create(w *world) *testenv.Result {
	m.Helper()
	args := []string{"create", "--bundle", m.b.Dir, "--pid-file", filepath.Join(m.b.Dir, "pid")}
	if m.console {
		c := m.NewConsole()
		defer c.Close()
		args = append(args, "--console-socket", c.Path)
	}
	return w.call(append(args, m.id)...)
}

// verb brings the container to where the point is passed.
func (m *matrix) verb() {
	m.Helper()
	if m.before != nil {
		m.before()
	}
	if m.adopts {
		if res := m.create(m.armed("create.hooks=kill")); res.Code != 137 {
			m.Fatal(res)
		}
	}
	if m.evicts {
		testenv.Args("sleep", "1001")(m.b.Spec)
		m.b.Write(m.Env)
	}
	if m.creating {
		m.duringCreate()
		return
	}
	if m.point.Verb == failpoint.Create {
		m.code = m.create(m.forCommand()).Code
		return
	}
	if res := m.create(m.forRest()); res.Code != 0 {
		m.Fatal(res)
	}
	if m.point.Verb != failpoint.Start && m.point.Verb != failpoint.Delete {
		m.OK("start", m.id)
	}
	if m.frozen {
		m.Signal(m.SandboxPids(m.id).Monitor, unix.SIGSTOP)
	}
	w := m.forCommand()
	switch m.point.Verb {
	case failpoint.Start:
		m.code = w.call("start", m.id).Code
	case failpoint.Exec:
		args := []string{"exec", "--detach", "--pid-file", m.Path("exec.pid"), m.id, "sleep", "1000"}
		if m.foreground {
			args = []string{"exec", m.id, "true"}
		}
		m.code = w.call(args...).Code
	case failpoint.Kill:
		m.code = w.call("kill", m.id, cmp.Or(m.signal, "KILL")).Code
	case failpoint.Delete:
		m.code = w.call("delete", "--force", m.id).Code
	}
}

// check is what is promised after any fault.
func (m *matrix) check(n *counts) {
	m.Helper()
	if m.point.Verb == failpoint.Create && m.fault == "error" && !mended[m.point.Name] {
		if m.code == 0 {
			m.Error("create has succeeded")
		}
		if m.pod == "" && !m.evicts { // what is kept of an earlier create has its own time
			m.isEmpty() // without anybody's help
		}
	}
	begin := time.Now()
	testenv.Eventually(m, limit, m.truth)
	n.state.add(m, time.Since(begin))
	if m.Failed() {
		m.Logf("processes: %s", testenv.Tree())
	}

	n.delete.add(m, m.OK("delete", "--force", m.id).Took)
	if m.pod == "" {
		m.isEmpty()
		m.isQuiet()
	}
	if err := m.b.Overlay.Cycle(); err != nil {
		m.Error(err)
	}
	if m.pod != "" && !m.podLives() {
		return // there is nothing to create it in
	}
	if res := m.create(m.world); res.Code != 0 {
		m.Errorf("the same again: %s", res)
	}
	m.OK("delete", "--force", m.id)
	if m.unchanged != nil {
		testenv.Eventually(m, limit, m.unchanged)
	}
}

// isQuiet checks that no process of the runtime is left.
func (m *matrix) isQuiet() {
	m.Helper()
	for _, kind := range faults[2:] {
		if pids := victims(kind); len(pids) != 0 {
			m.Errorf("left behind after delete --force: %s %v", kind, pids)
		}
	}
}

func (m *matrix) podLives() bool {
	res := m.Do("state", m.pod)
	var st testenv.State
	return res.Code == 0 && json.Unmarshal([]byte(res.Stdout), &st) == nil && st.Status == "created"
}

// truth compares what state says with what is.
func (m *matrix) truth() error {
	res := m.Do("state", m.id)
	if res.Code != 0 {
		if m.mustExist() {
			return fmt.Errorf("the container is lost: %s", res)
		}
		return nil
	}
	var st testenv.State
	if err := json.Unmarshal([]byte(res.Stdout), &st); err != nil {
		return err
	}
	pid, _ := strconv.Atoi(m.readIf(filepath.Join(m.b.Dir, "pid")))
	alive := len(victims("QEMU")) > 0 && len(victims("monitor")) > 0 && len(victims("file server")) > 0 && (pid == 0 || testenv.Alive(pid))
	switch st.Status {
	case "stopped":
		if st.Pid != 0 || testenv.Alive(pid) {
			return fmt.Errorf("stopped, with the shim alive: %s", res)
		}
	case "created", "running":
		if !alive {
			return fmt.Errorf("%s, with dead processes: %s", st.Status, res)
		}
		if st.Pid == 0 {
			return fmt.Errorf("%s, without a pid: %s", st.Status, res)
		}
	default:
		return fmt.Errorf("in the middle of something: %s", res)
	}
	return nil
}

// mustExist reports whether there is a container, as far as its callers have been told.
func (m *matrix) mustExist() bool {
	switch {
	case m.creating:
		return m.created == 0
	case m.point.Verb == failpoint.Create:
		return m.code == 0
	}
	return m.point.Verb != failpoint.Delete
}

func (m *matrix) readIf(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}
