package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// caller is how an engine says which containers belong together.
type caller struct {
	name string
	// kind and sandbox are annotations; kind is "" for podman.
	kind, kindSandbox, sandbox string
	infra                      bool // makes a container for the pod itself
}

var callers = []caller{
	{"containerd", "io.kubernetes.cri.container-type", "sandbox", "io.kubernetes.cri.sandbox-id", true},
	{"CRI-O", "io.kubernetes.cri-o.ContainerType", "sandbox", "io.kubernetes.cri-o.SandboxID", true},
	{"CRI-O without infra container", "io.kubernetes.cri-o.ContainerType", "sandbox", "io.kubernetes.cri-o.SandboxID", false},
	{"cri-dockerd", "io.kubernetes.docker.type", "podsandbox", "io.kubernetes.sandbox.id", true},
	{"podman", "", "", "io.kubernetes.cri-o.SandboxID", true},
}

// pod makes containers with the annotations, paths and mounts of a caller.
type pod struct {
	*testenv.Env
	caller
	id         string
	shm        string // the folder that stands for /dev/shm on the host
	namespaces string // folder of the namespaces that members join
	infra      *testenv.Container
}

func newPod(e *testenv.Env, c caller) *pod {
	e.Helper()
	p := &pod{Env: e, caller: c, id: e.ID(), shm: e.Path("shm"), namespaces: "/run/netns/" + e.ID()}
	if err := os.Mkdir(p.shm, 0o755); err != nil {
		e.Fatal(err)
	}
	if err := unix.Mount("shm", p.shm, "tmpfs", 0, "size=1m"); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if err := unix.Unmount(p.shm, 0); err != nil {
			e.Error(err)
		}
	})
	if !c.infra {
		p.namespaces = pinnedNetwork(e)
		return p
	}
	p.infra = p.create(p.id, true, testenv.Shell(obeys), func(s *specs.Spec) {
		s.Hostname = "pod-0"
		s.Linux.Sysctl = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_unprivileged_port_start": "7"}
	})
	p.infra.Start()
	p.namespaces = fmt.Sprintf("/proc/%d/ns", p.infra.Pid)
	return p
}

// obeys ends at the first TERM, which an init without a handler never gets.
const obeys = "sleep 1000000 & trap 'exit 0' TERM; wait"

// pinnedNetwork makes a network namespace that is kept alive by a mount, and
// gives the folder of that. Its other namespaces are paths at which nothing is:
// a VM has its own.
func pinnedNetwork(e *testenv.Env) string {
	e.Helper()
	dir := e.Path("namespaces")
	path := filepath.Join(dir, "net")
	if err := os.Mkdir(dir, 0o755); err != nil {
		e.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		e.Fatal(err)
	}
	res := e.Run(e, testenv.Command{
		Path: testenv.Tool(e, "unshare"), Args: []string{"--net=" + path, testenv.Tool(e, "ip"), "link", "set", "lo", "up"},
	})
	if res.Code != 0 {
		e.Fatal(res)
	}
	e.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			e.Error(err)
		}
	})
	return dir
}

// bundle makes the bundle of a container of the pod.
func (p *pod) bundle(id string, infra bool, options ...testenv.Option) *testenv.Bundle {
	p.Helper()
	kind := "container"
	if infra {
		kind = p.kindSandbox
	}
	all := []testenv.Option{func(s *specs.Spec) {
		s.Hostname = ""
		for i, m := range s.Mounts {
			if m.Destination == "/dev/shm" {
				s.Mounts[i] = specs.Mount{Destination: m.Destination, Type: "bind", Source: p.shm, Options: []string{"rbind", "nosuid", "noexec"}}
			}
		}
		if !infra {
			for i, ns := range s.Linux.Namespaces {
				name := map[specs.LinuxNamespaceType]string{"network": "net", "ipc": "ipc", "uts": "uts"}[ns.Type]
				if name != "" {
					s.Linux.Namespaces[i].Path = filepath.Join(p.namespaces, name)
				}
			}
		}
	}, testenv.Annotation(p.sandbox, p.id)}
	if p.kind != "" {
		all = append(all, testenv.Annotation(p.kind, kind))
	}
	b := p.Bundle(append(all, options...)...)
	b.ID = id
	return b
}

func (p *pod) create(id string, infra bool, options ...testenv.Option) *testenv.Container {
	p.Helper()
	return p.CreateFrom(p.bundle(id, infra, options...), nil)
}

// member creates and starts a container of the pod.
func (p *pod) member(options ...testenv.Option) *testenv.Container {
	p.Helper()
	c := p.create(p.ID(), false, options...)
	c.Start()
	return c
}

// in gives the output of a script that runs in the container.
func in(c *testenv.Container, script string) string {
	c.Helper()
	return strings.TrimSuffix(c.OK("exec", c.ID, "sh", "-c", script).Stdout, "\n")
}

// joinPID joins the pid namespace of a container's process.
func joinPID(c *testenv.Container) testenv.Option {
	return func(s *specs.Spec) {
		for i, ns := range s.Linux.Namespaces {
			if ns.Type == specs.PIDNamespace {
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/ns/pid", c.Pid)
			}
		}
	}
}

// TestPod has two containers share what those of a pod share, and part again,
// for each caller.
func TestPod(t *testing.T) {
	for _, c := range callers {
		t.Run(c.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			p := newPod(e, c)
			a := p.member(testenv.Shell(serve))
			b := p.member(testenv.Shell(obeys))
			p.shares(a, b)
			p.parts(a, b)
		})
	}
}

// serve is a web server that only its own pod can reach.
const serve = "mkdir /www; echo served >/www/index.html; exec httpd -f -p 127.0.0.1:80 -h /www"

// shares checks what the containers have in common.
func (p *pod) shares(a, b *testenv.Container) {
	p.Helper()
	p.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 1)
	p.Equal("answer on localhost", in(b, "until wget -qO- http://127.0.0.1/ 2>/dev/null; do sleep 0.1; done"), "served")
	for _, ns := range []string{"ipc", "uts", "net"} {
		script := "readlink /proc/self/ns/" + ns
		p.Equal("namespace "+ns, in(a, script), in(b, script))
	}
	if script := "readlink /proc/self/ns/pid"; in(a, script) == in(b, script) {
		p.Errorf("the pid namespace is shared, and nobody has asked for that")
	}
	in(a, "echo shared >/dev/shm/file")
	p.Equal("/dev/shm", in(b, "cat /dev/shm/file; stat -f -c '%T %b' /dev/shm; ls /dev/shm"), "shared\ntmpfs 256\nfile")
	if entries, err := os.ReadDir(p.shm); err != nil || len(entries) != 0 {
		p.Errorf("shared memory reaches the host: %v, %v", entries, err)
	}
	if p.infra == nil {
		return
	}
	p.Equal("hostname and sysctls", in(b, "hostname; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start"), "pod-0\n1\n7")
}

// parts ends the containers one by one.
func (p *pod) parts(a, b *testenv.Container) {
	p.Helper()
	p.OK("kill", a.ID, "KILL")
	if err := a.Bundle.Overlay.Cycle(); err != nil {
		p.Error(err)
	}
	p.Equal("exit code", a.Wait(time.Second), 137)
	p.IsStatus(a.ID, "stopped")
	a.Delete()
	p.Equal("what the other has", in(b, "cat /dev/shm/file"), "shared")
	p.IsStatus(b.ID, "running")

	last := b
	if p.infra != nil {
		last = p.infra
	}
	p.OK("kill", last.ID, "TERM")
	p.Equal("exit code", b.Wait(exitLimit), map[bool]int{true: 137, false: 0}[p.infra != nil])
	for _, c := range []*testenv.Container{last, b} {
		p.IsStatus(c.ID, "stopped")
		if err := c.Bundle.Overlay.Cycle(); err != nil {
			p.Error(err)
		}
	}
	p.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 0)
	b.Delete()
	if p.infra != nil {
		p.infra.Delete()
	}
}

// TestPodProcesses shares the pid namespace: of the pod, and of one container
// (kubectl debug --target).
func TestPodProcesses(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	p := newPod(e, callers[0])
	a := p.member(joinPID(p.infra), testenv.Args("sleep", "777001"))
	b := p.member(joinPID(p.infra), testenv.Args("sleep", "777002"))
	c := p.member(testenv.Args("sleep", "777003"))
	d := p.member(joinPID(c), testenv.Args("sleep", "777004"))
	const list = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -x '[0-9][0-9]*' | sort | tr '\\n' ' '"
	for _, tt := range []struct {
		c    *testenv.Container
		want string
	}{
		{a, "1000000 777001 777002 "}, {b, "1000000 777001 777002 "}, {c, "777003 777004 "}, {d, "777003 777004 "},
	} {
		e.Equal("processes", in(tt.c, list), tt.want)
	}
	e.OK("kill", a.ID, "KILL")
	e.Equal("exit code", a.Wait(exitLimit), 137)
	e.Equal("processes without one container", in(b, list), "1000000 777002 ")
	e.OK("kill", c.ID, "KILL") // the init of the namespace
	e.Equal("exit code", d.Wait(exitLimit), 137)
	e.IsStatus(b.ID, "running")
	late := p.member(joinPID(b), testenv.Args("sleep", "777005")) // which is in the infra container's
	e.Equal("processes", in(late, list), "1000000 777002 777005 ")
}

// TestPodTogether creates the containers of a pod without a container of its
// own at the same time, ends them all, and begins anew under the same id.
func TestPodTogether(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	p := newPod(e, callers[2])
	for range 2 {
		var made [4]*testenv.Container
		bundles := [len(made)]*testenv.Bundle{}
		for i := range bundles {
			bundles[i] = p.bundle("", false, testenv.Shell("exec sleep 1000000"))
		}
		var all sync.WaitGroup
		for i := range made {
			all.Go(func() { made[i] = e.CreateFrom(bundles[i], nil) })
		}
		all.Wait()
		if t.Failed() {
			return
		}
		e.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 1)
		for _, c := range made {
			all.Go(func() { c.Start() })
		}
		all.Wait()
		for _, c := range made {
			all.Go(func() { c.DeleteForced() })
		}
		all.Wait()
		e.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 0)
	}
}

// TestPodFirstDies ends the container that came first, which started the
// sandbox, in a pod without a container of its own: nothing of it may be held.
func TestPodFirstDies(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	p := newPod(e, callers[2])
	inCgroup := func(id string) testenv.Option {
		return func(s *specs.Spec) { s.Linux.CgroupsPath = "/" + e.Prefix + "/" + id }
	}
	e.Cleanup(func() { removeCgroups(e) })
	first := p.member(inCgroup("first"), testenv.Shell("while ! [ -e /go ]; do sleep 0.1; done; exit 3"))
	second := p.member(inCgroup("second"))
	write(t, first, "go", "")
	e.Equal("exit code", first.Wait(exitLimit), 3)
	if err := first.Bundle.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	first.Delete()
	if dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + e.Prefix + "/first"); len(dirs) != 0 {
		t.Errorf("cgroups of a deleted container: %v", dirs)
	}
	e.IsStatus(second.ID, "running")
	e.Equal("output", in(second, "echo lives"), "lives")
	second.DeleteForced()
}

// removeCgroups removes the suite's parent cgroup, which must be empty.
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

// TestPodRefused has pods that cannot be.
func TestPodRefused(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	p := newPod(e, callers[0])
	other := p.bundle("", false, func(s *specs.Spec) {
		for i, ns := range s.Linux.Namespaces {
			if ns.Type == specs.NetworkNamespace {
				s.Linux.Namespaces[i].Path = ""
			}
		}
	})
	e.Fails("in another network namespace than its pod", "create", "--bundle", other.Dir, e.ID())
	e.IsStatus(p.id, "running")
	e.OK("kill", p.id, "KILL")
	late := p.bundle("", false, func(s *specs.Spec) {
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}
	})
	e.Fails("join sandbox "+p.id+": it has ended", "create", "--bundle", late.Dir, e.ID())
}

// TestPodFull has more containers than the machine has slots for: one that is too
// many is told why, and finds room when another has gone.
func TestPodFull(t *testing.T) {
	e := suite.New(t).Configured(testenv.Settings{"hypervisor.hotplug_slots": "3", "hypervisor.template": `"off"`})
	e.NeedVM()
	p := newPod(e, callers[0])
	first, _ := p.member(), p.member()
	more := p.bundle("", false)
	res := e.Fails("no free hotplug slot in the virtual machine: "+
		"each container, network interface and eight disks of a pod take one of 3 (hypervisor.hotplug_slots)",
		"create", "--bundle", more.Dir, e.ID())
	if strings.Contains(res.Stderr, "console") {
		t.Errorf("the console has nothing to do with it: %s", res)
	}
	for range 2 {
		first.DeleteForced()
		first = p.member()
	}
	e.Equal("output", in(first, "echo lives"), "lives")
}

// TestPodOfPodmanWithoutInfra has containers that podman calls a pod, and that
// share nothing.
func TestPodOfPodmanWithoutInfra(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	alone := testenv.Annotation("io.kubernetes.cri-o.SandboxID", e.ID())
	a, b := e.Started(nil, alone), e.Started(nil, alone)
	e.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 2)
	a.DeleteForced()
	e.IsStatus(b.ID, "running")
}
