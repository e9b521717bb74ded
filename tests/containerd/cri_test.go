package containerd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// serve is a web server that only its own pod can reach.
const serve = "mkdir /www; echo served >/www/index.html; exec httpd -f -p 127.0.0.1:80 -h /www"

// obeys ends at the first TERM.
const obeys = "sleep 1000000 & trap 'exit 0' TERM; wait"

// TestPod has what the containers of a pod share, and the life of each.
func TestPod(t *testing.T) {
	p := newPod(t, nil)
	a := p.container("a", nil, "sh", "-c", serve)
	b := p.container("b", nil, "sh", "-c", obeys)
	p.Equal("answer on localhost", p.sh(b, "until wget -qO- http://127.0.0.1/ 2>/dev/null; do sleep 0.1; done"), "served")
	p.sh(a, "echo shared >/dev/shm/file")
	p.Equal("/dev/shm", p.sh(b, "cat /dev/shm/file; stat -f -c %T /dev/shm"), "shared\ntmpfs")
	for _, ns := range []string{"ipc", "uts", "net"} {
		p.Equal("namespace "+ns, p.sh(a, "readlink /proc/self/ns/"+ns), p.sh(b, "readlink /proc/self/ns/"+ns))
	}
	p.Equal("hostname, DNS, sysctls",
		p.sh(b, "hostname; cat /etc/hostname /etc/resolv.conf /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_unprivileged_port_start"),
		"testpod-host\ntestpod-host\nnameserver 192.0.2.53\n1\n0")
	p.Equal("address", p.sh(b, "ip -o -4 address show eth0 | grep -c 192.0.2."), "1")
	p.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 1)

	if stats := call(p, p.ContainerStats, &cri.ContainerStatsRequest{ContainerId: a}).Stats; stats.Memory.GetWorkingSetBytes().GetValue() == 0 || stats.Cpu.GetUsageCoreNanoSeconds().GetValue() == 0 {
		t.Errorf("statistics: %v", stats)
	}

	p.stop(a, 0, 137) // the server has no handler for TERM
	p.remove(a)
	p.Equal("what the other has", p.sh(b, "cat /dev/shm/file"), "shared")
	p.stop(b, 30, 0)
	p.remove(b)
	c := p.container("c", nil, "sleep", "1000000")
	p.Equal("a container that came later", p.sh(c, "cat /dev/shm/file"), "shared")
}

// TestPodStopped has a pod take the machine that waits for one, and stops it with
// its containers running.
func TestPodStopped(t *testing.T) {
	s := keepSpare(t)
	was := s.only()
	p := newPod(t, nil)
	s.taken(was, p.id)
	ids := []string{p.container("a", nil, "sleep", "1000000"), p.container("b", nil, "sh", "-c", obeys)}
	call(p, p.StopPodSandbox, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
	for _, id := range ids {
		if st := p.status(id); st.State != cri.ContainerState_CONTAINER_EXITED {
			t.Errorf("after StopPodSandbox: %v", st)
		}
	}
	if st := call(p, p.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: p.id}).Status; st.State != cri.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("the pod is %s", st.State)
	}
	s.OK("spare", "rm") // the next one, which the pod has had made
	p.Equal("processes of QEMU", len(testenv.Processes("qemu-system-x86")), 0)
}

// TestPodPIDs shares the pid namespace in the pod (shareProcessNamespace).
func TestPodPIDs(t *testing.T) {
	p := newPod(t, func(c *cri.PodSandboxConfig) {
		c.Linux.SecurityContext = &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_POD}}
	})
	p.container("a", nil, "sleep", "777001")
	b := p.container("b", nil, "sleep", "777002")
	p.Equal("processes", p.sh(b, `cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -x '7770[0-9]*' | sort | tr '\n' ' '`), "777001 777002 ")
}

// TestExecSync has codes, streams and the time-out, which ends the process.
func TestExecSync(t *testing.T) {
	p := newPod(t, nil)
	c := p.container("c", nil, "sleep", "1000000")
	res := call(p, p.ExecSync, &cri.ExecSyncRequest{ContainerId: c, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}})
	if res.ExitCode != 3 || string(res.Stdout) != "out\n" || string(res.Stderr) != "err\n" {
		t.Errorf("exit code %d, %q, %q", res.ExitCode, res.Stdout, res.Stderr)
	}
	_, err := try(p, p.ExecSync, &cri.ExecSyncRequest{ContainerId: c, Cmd: []string{"sleep", "777007"}, Timeout: 3})
	if err == nil || !strings.Contains(err.Error(), "timed out") && !strings.Contains(err.Error(), "timeout 3s exceeded") {
		t.Errorf("a time-out: %v", err)
	}
	// The process is killed by way of its shim on the host, whose end is what
	// containerd waits for.
	testenv.Eventually(t, time.Minute, func() error {
		if got := p.sh(c, `cat /proc/[0-9]*/cmdline | tr '\0' '\n' | grep -cx '77700[7]' || true`); got != "0" {
			return &statusError{"processes after the time-out", got, "0"}
		}
		return nil
	})
}

// TestLogs reads what the kubelet reads.
func TestLogs(t *testing.T) {
	p := newPod(t, nil)
	id := p.container("talker", nil, "sh", "-c", "echo to stdout; echo to stderr >&2; exit 6")
	testenv.Eventually(t, time.Minute, func() error {
		if st := p.status(id); st.State != cri.ContainerState_CONTAINER_EXITED || st.ExitCode != 6 {
			return &statusError{id, st.State.String(), "EXITED with 6"}
		}
		return nil
	})
	var got []string
	for line := range strings.Lines(p.Read(filepath.Join(p.config.LogDirectory, "talker.log"))) {
		_, rest, _ := strings.Cut(line, " ") // the time
		got = append(got, rest)
	}
	text := strings.Join(got, "")
	for _, want := range []string{"stdout F to stdout\n", "stderr F to stderr\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in the log: %q", want, text)
		}
	}
	p.remove(id)
}

// replace is the kubelet's part of the probe: it exchanges the link ..data of a
// volume when it is asked to in a folder, and says so there.
func replace(volume, folder string) error {
	for deadline := time.Now().Add(callLimit); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(folder, "ask")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			return errors.New("nobody asks for the secret to be replaced")
		}
	}
	link := filepath.Join(volume, "..new")
	if err := os.Symlink("..2", link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(volume, "..data")); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(folder, "done"), nil, 0o644)
}

// TestSecrets replaces files on the host as the kubelet does, by renaming a
// link, and makes one of a folder that several containers have.
func TestSecrets(t *testing.T) {
	p := newPod(t, nil)
	volume, shared := p.Path("secret"), p.Path("empty-dir")
	for _, dir := range []string{volume, shared, filepath.Join(volume, "..1"), filepath.Join(volume, "..2")} {
		if err := os.Mkdir(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	p.Write("secret/..1/key", "old")
	p.Write("secret/..2/key", "new")
	for name, to := range map[string]string{"..data": "..1", "key": "..data/key"} {
		if err := os.Symlink(to, filepath.Join(volume, name)); err != nil {
			t.Fatal(err)
		}
	}
	mounts := func(c *cri.ContainerConfig) {
		c.Mounts = []*cri.Mount{
			{ContainerPath: "/secret", HostPath: volume, Readonly: true}, {ContainerPath: "/work", HostPath: shared},
			{ContainerPath: "/sub", HostPath: filepath.Join(volume, "..1/key"), Readonly: true},
		}
	}
	a := p.container("a", mounts, "sleep", "1000000")
	b := p.container("b", mounts, "sleep", "1000000")
	p.Equal("secret", p.sh(a, "cat /secret/key; echo; cat /sub; echo written >/work/file"), "old\nold")
	p.Equal("empty dir", p.sh(b, "cat /work/file"), "written")
	replaced := make(chan error, 1)
	go func() { replaced <- replace(volume, shared) }()
	t.Logf("the secret: %s", p.sh(a, "probe replace /secret/key:/work"))
	if err := <-replaced; err != nil {
		t.Error(err)
	}
	// Of a file alone (subPath) the container has what it began with, as with runc.
	p.Equal("secret, and a file of it", p.sh(a, "cat /secret/key; echo; cat /sub"), "new\nold")
	p.Equal("secret of the other", p.sh(b, "cat /secret/key"), "new")
	res := call(p, p.ExecSync, &cri.ExecSyncRequest{ContainerId: a, Cmd: []string{"touch", "/secret/x"}})
	if res.ExitCode == 0 || !strings.Contains(string(res.Stderr), "Read-only") {
		t.Errorf("a read-only volume: %v", res)
	}
}

// TestOverhead holds the RuntimeClass to its word: the memory of a pod with one
// sleeping container is at most what its overhead says.
func TestOverhead(t *testing.T) {
	p := newPod(t, nil)
	p.container("a", nil, "sleep", "1000000")
	total := 0
	for _, name := range []string{"qemu-system-x86", "virtiofsd", "vc-runtime"} {
		for _, pid := range testenv.Processes(name) {
			pss := regexp.MustCompile(`(?m)^Pss: +(\d+) kB$`).FindStringSubmatch(p.Read(fmt.Sprintf("/proc/%d/smaps_rollup", pid)))
			if pss == nil {
				t.Fatalf("no Pss of process %d", pid)
			}
			kB, _ := strconv.Atoi(pss[1])
			t.Logf("%s: %d kB", name, kB)
			total += kB
		}
	}
	claim := regexp.MustCompile(`memory: "(\d+)Mi"`).FindStringSubmatch(p.Read("../../packaging/kubernetes/runtimeclass.yaml"))
	if claim == nil {
		t.Fatal("the RuntimeClass has no overhead in Mi")
	}
	most, _ := strconv.Atoi(claim[1])
	t.Logf("%d kB in all, of %d Mi", total, most)
	if total == 0 || total > most<<10 {
		t.Errorf("a pod takes %d kB, and the RuntimeClass says %d Mi", total, most)
	}
}
