package fault

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// special are points that an ordinary container's life does not come by.
var special = map[failpoint.Name]func(*matrix){
	failpoint.CreateJoin:     (*matrix).inPod,
	failpoint.MonitorRemove:  (*matrix).inPod,
	failpoint.MonitorUnplug:  (*matrix).inPod,
	failpoint.CreateConsole:  func(m *matrix) { m.console = true },
	failpoint.ShimConsole:    func(m *matrix) { m.console = true },
	failpoint.CreateUndo:     func(m *matrix) { m.arms = append(m.arms, "create.hooks=error") },
	failpoint.KillForce:      func(m *matrix) { m.frozen = true },
	failpoint.KillSandbox:    func(m *matrix) { m.frozen = true },
	failpoint.ExecForeground: func(m *matrix) { m.foreground = true },

	failpoint.CreateAdopt:         func(m *matrix) { m.adopts = true },
	failpoint.KillTerm:            func(m *matrix) { m.signal = "TERM" },
	failpoint.KillSignal:          func(m *matrix) { m.signal = "CONT" },
	failpoint.MonitorMakeTemplate: (*matrix).cold,
	failpoint.MonitorSaveTemplate: (*matrix).cold,
	failpoint.MonitorGrow:         (*matrix).large,
	failpoint.MonitorPlugDisks:    (*matrix).withDisk,
	failpoint.MonitorTap:          (*matrix).wired,
	failpoint.MonitorPlugNIC:      (*matrix).wired,
	failpoint.MonitorTellNetwork:  (*matrix).wired,

	failpoint.CreateEvict:           func(m *matrix) { m.adopts, m.evicts = true, true },
	failpoint.KillCreating:          func(m *matrix) { m.creating = true },
	failpoint.StartNotify:           (*matrix).notified,
	failpoint.StartReady:            (*matrix).notified,
	failpoint.StartTell:             (*matrix).notified,
	failpoint.MonitorReady:          (*matrix).notified,
	failpoint.MonitorGreetTemplate:  (*matrix).cold,
	failpoint.MonitorAnswers:        (*matrix).cold,
	failpoint.MonitorClearStale:     (*matrix).stale,
	failpoint.MonitorOpenTap:        (*matrix).wired,
	failpoint.MonitorTapUp:          (*matrix).wired,
	failpoint.MonitorQdisc:          (*matrix).wiredBothWays,
	failpoint.MonitorFilter:         (*matrix).wiredBothWays,
	failpoint.MonitorVhost:          (*matrix).wired,
	failpoint.MonitorForward:        (*matrix).wired,
	failpoint.MonitorRemoveTap:      (*matrix).wired,
	failpoint.MonitorRemoveRedirect: (*matrix).wired,
}

// mended are points of create whose failure it does without, or that are passed
// beside it.
var mended = map[failpoint.Name]bool{
	failpoint.CreateAdopt:         true, // another machine is made
	failpoint.MonitorMakeTemplate: true, // the machine boots
	failpoint.MonitorSaveTemplate: true,
	failpoint.MonitorWait:         true, // the container ends
	failpoint.MonitorLeavePlace:   true, // the place ends with the machine

	failpoint.MonitorCheckVsock:    true, // the agent is talked to over virtio-serial
	failpoint.MonitorGreetTemplate: true, // the machine boots
	failpoint.MonitorAnswers:       true, // the template is given up
	failpoint.MonitorForward:       true, // there is none
	failpoint.MonitorResolver:      true, // the guest's queries for names have no answer
}

// cold has the case find no template, so that it makes one. What it leaves of it
// is not for the next case.
func (m *matrix) cold() {
	dir := filepath.Join(suite.Dir, "cache/templates")
	remove := func() {
		if err := os.RemoveAll(dir); err != nil {
			m.Error(err)
		}
	}
	remove()
	m.Cleanup(remove)
	m.unchanged = func() error {
		aside, err := filepath.Glob(filepath.Join(dir, ".aside-*"))
		if len(aside) != 0 {
			err = fmt.Errorf("templates that were not finished: %v", aside)
		}
		return err
	}
}

// large has the container want more than a machine begins with.
func (m *matrix) large() {
	memory, quota, period := int64(400<<20), int64(200000), uint64(100000)
	m.options = append(m.options, func(s *specs.Spec) {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
		s.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	})
}

// withDisk gives the container a block device, which nobody holds afterwards.
func (m *matrix) withDisk() {
	dev := m.LoopDevice("disk", "")
	m.options = append(m.options, m.BlockDevice(dev, "/dev/disk", "rwm"))
	m.unchanged = func() error {
		f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0) // as its user does
		if err != nil {
			return err
		}
		return f.Close()
	}
}

// wired gives the container an interface, in a namespace that is its caller's.
func (m *matrix) wired() {
	path := m.NewBridge("faults", "10.77.0.1/24").Pod("10.77.0.2/24")
	m.options = append(m.options, testenv.NetworkNamespace(path))
	before := m.interfaces(path)
	m.unchanged = func() error {
		if now := m.interfaces(path); now != before {
			return fmt.Errorf("interfaces and traffic control: %s, and before: %s", now, before)
		}
		return nil
	}
}

// wiredBothWays is wired, and means the interface's own traffic control, which
// comes after that of its tap.
func (m *matrix) wiredBothWays() {
	m.wired()
	m.at = 2
}

// stale is wired, and an earlier monitor was killed.
func (m *matrix) stale() {
	m.wired()
	m.before = func() {
		if res := m.create(m.world); res.Code != 0 {
			m.Fatal(res)
		}
		m.Signal(m.SandboxPids(m.id).Monitor, unix.SIGKILL)
		m.OK("delete", "--force", m.id)
		if err := m.unchanged(); err == nil {
			m.Fatal("a monitor that was killed has left nothing on the interface")
		}
	}
}

// notified has the runtime be a service's, and the container say that it is ready.
func (m *matrix) notified() {
	path := m.Path("manager")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() { manager.Close() })
	go func() { // until it is closed; the kernel closes descriptors that nobody takes
		for b := make([]byte, 4096); err == nil; {
			_, err = manager.Read(b)
		}
	}()
	m.Vars = append(m.Vars, "NOTIFY_SOCKET="+path)
	m.options = append(m.options, testenv.Shell("probe notify $NOTIFY_SOCKET; exec sleep 1000"))
}

// duringCreate runs the verb, a kill, while create waits before its hooks.
func (m *matrix) duringCreate() {
	m.Helper()
	g, over := m.newGate(), make(chan struct{})
	go func() {
		defer close(over)
		arms := []string{"create.hooks=" + g.pause()}
		if m.point.Process != failpoint.Command {
			arms = append(arms, m.arm()...)
		}
		m.created = m.create(m.armed(arms...)).Code
	}()
	p := g.wait(over)
	if p == nil {
		m.Fatal("create does not come to its hooks")
	}
	m.code = m.forCommand().call("kill", m.id, "KILL").Code
	p.let("go")
	<-over
	if m.code == 0 && m.created == 0 {
		m.Error("create has succeeded, though the container was killed meanwhile")
	}
}

// interfaces are the names of those in a network namespace, and what traffic
// control they have.
func (m *matrix) interfaces(netns string) string {
	m.Helper()
	in := func(args ...string) string {
		res := m.Run(m, testenv.Command{Path: testenv.Tool(m, "nsenter"), Args: append([]string{"--net=" + netns}, args...)})
		if res.Code != 0 {
			m.Fatal(res)
		}
		return res.Stdout
	}
	var names []string
	for line := range strings.Lines(in("cat", "/proc/self/net/dev")) {
		if name, _, ok := strings.Cut(line, ":"); ok {
			names = append(names, strings.TrimSpace(name))
		}
	}
	return strings.Join(names, " ") + "; " + in(testenv.Tool(m, "tc"), "qdisc", "show")
}
