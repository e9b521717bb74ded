// Package crio replays how CRI-O calls a runtime, with Debian's conmon: the
// command lines are those of CRI-O's internal/oci/runtime_oci.go. Debian 12 has no
// CRI-O itself. Runtime and conmon are those of packaging/crio.
//
//	VC_CRIO_CYCLES  how many containers are stopped; 20
package crio

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite and handler are set by TestMain.
var (
	suite   *testenv.Suite
	handler runtimeHandler
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, prepare)) }

// prepare puts the runtime where the drop-in says.
func prepare(s *testenv.Suite) (func() error, error) {
	text, err := testenv.DropIn(dropIn)
	if err != nil {
		return nil, err
	}
	config, err := readDropIn(string(text))
	if err != nil {
		return nil, err
	}
	handler = config.Crio.Runtime.Runtimes["vc-runtime"]
	return s.Install(nil)
}

// limit is for what should take seconds, on a machine that is overloaded.
const limit = 3 * time.Minute

// pod is what CRI-O prepares for a pod without an infra container: an id that
// no container has, and a network namespace that a mount keeps.
type pod struct {
	*testenv.Env
	id, netns, exits string
}

func newPod(e *testenv.Env) *pod {
	e.Helper()
	p := &pod{Env: e, id: e.ID(), netns: e.Path("netns"), exits: e.Path("exits")}
	e.Write("netns", "")
	if err := os.Mkdir(p.exits, 0o755); err != nil {
		e.Fatal(err)
	}
	res := e.Run(e, testenv.Command{Path: testenv.Tool(e, "unshare"), Args: []string{"--net=" + p.netns, "true"}, Env: []string{"PATH=/usr/bin:/bin"}})
	if res.Code != 0 {
		e.Fatal(res)
	}
	e.Cleanup(func() {
		if err := unix.Unmount(p.netns, 0); err != nil {
			e.Error(err)
		}
		removeCgroups(e)
	})
	return p
}

// removeCgroups removes the pod's cgroup, which is CRI-O's to make and remove.
func removeCgroups(e *testenv.Env) {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + e.Prefix)
	if err != nil {
		e.Error(err)
	}
	for _, dir := range append(dirs, "/sys/fs/cgroup/"+e.Prefix) {
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			e.Errorf("%s: %v", dir, err)
		}
	}
}

// container is a container with its conmon.
type container struct {
	*pod
	id          string
	bundle      *testenv.Bundle
	pid, conmon int
}

// create has conmon create a container, as CRI-O does.
func (p *pod) create(options ...testenv.Option) *container {
	p.Helper()
	c := &container{pod: p, id: p.ID()}
	c.bundle = p.Bundle(append([]testenv.Option{
		testenv.Annotation("io.kubernetes.cri-o.ContainerType", "container"),
		testenv.Annotation("io.kubernetes.cri-o.SandboxID", p.id),
		func(s *specs.Spec) {
			s.Linux.CgroupsPath = "/" + p.Prefix + "/crio-" + c.id
			for i, ns := range s.Linux.Namespaces {
				if ns.Type == specs.NetworkNamespace {
					s.Linux.Namespaces[i].Path = p.netns
				}
			}
		},
	}, options...)...)
	sync, syncChild := p.pipe()
	startChild, start := p.pipe()
	defer sync.Close()
	defer start.Close()
	// CRI-O writes it once conmon is in its cgroup.
	if _, err := start.Write([]byte{0}); err != nil {
		p.Fatal(err)
	}
	res := p.Run(p, testenv.Command{
		Path: handler.MonitorPath, Args: c.conmonArgs(), Files: []*os.File{syncChild, startChild},
		Env: []string{"XDG_RUNTIME_DIR=", "_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4"},
	})
	syncChild.Close()
	startChild.Close()
	if res.Code != 0 {
		p.Fatal(res)
	}
	sync.SetReadDeadline(time.Now().Add(limit))
	var got struct {
		Pid     int
		Message string
	}
	if err := json.NewDecoder(sync).Decode(&got); err != nil || got.Pid <= 0 {
		p.Fatalf("conmon says %+v: %v", got, err)
	}
	c.pid = got.Pid
	c.conmon = p.number(c.file("conmon.pid"))
	return c
}

func (c *container) file(name string) string { return filepath.Join(c.bundle.Dir, name) }

func (c *container) conmonArgs() []string {
	args := []string{
		"-b", c.bundle.Dir, "-c", c.id, "--exit-dir", c.exits, "-l", c.file("log"), "--log-level", "info", "-n", "k8s_" + c.id,
		"-P", c.file("conmon.pid"), "-p", c.file("pidfile"), "--persist-dir", c.bundle.Dir, "-r", handler.RuntimePath,
		"--socket-dir-path", c.exits, "-u", c.id,
	}
	for _, flag := range flags(c.Globals()) {
		args = append(args, "--runtime-arg", flag)
	}
	return args
}

// flags writes each flag and its value as one word, as CRI-O does.
func flags(globals []string) (joined []string) {
	for i := 0; i+1 < len(globals); i += 2 {
		joined = append(joined, globals[i]+"="+globals[i+1])
	}
	return joined
}

func (p *pod) pipe() (r, w *os.File) {
	p.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		p.Fatal(err)
	}
	return r, w
}

func (p *pod) number(path string) int {
	p.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(p.Read(path)))
	if err != nil {
		p.Fatal(err)
	}
	return n
}

// ended waits for the end of conmon, which must follow that of the container,
// and gives the exit code that it has written. Its own code says that nobody
// reads its pipe any more, as with CRI-O.
func (c *container) ended() int {
	c.Helper()
	c.Await(c.conmon, limit)
	return c.number(filepath.Join(c.exits, c.id))
}

// delete is CRI-O's last call.
func (c *container) delete() {
	c.Helper()
	c.OK("delete", "--force", c.id)
}

// TestConmonEnds has two containers of a pod, each with its conmon, of which
// the first has started the virtual machine: its conmon ends with it.
func TestConmonEnds(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	p := newPod(e)
	first, second := p.create(testenv.Shell("exit 3")), p.create(testenv.Shell("trap 'exit 4' TERM; touch /ready; sleep 1000000 & wait"))
	first.OK("start", first.id)
	second.OK("start", second.id)
	e.Equal("exit code", first.ended(), 3)
	first.delete()
	second.ready()
	e.IsStatus(second.id, "running")
	e.OK("kill", second.id, "15")
	e.Equal("exit code", second.ended(), 4)
	second.delete()
}
