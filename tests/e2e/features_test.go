package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestCopy copies files into a running container and out of it.
func TestCopy(t *testing.T) {
	p := newPodman(t)
	id := p.detached(image, "sleep", "1000000")
	p.Write("in", "from the host\n")
	p.ok("cp", p.Path("in"), id+":/root/in")
	p.Equal("in the container", p.ok("exec", id, "cat", "/root/in"), "from the host")
	p.ok("exec", id, "sh", "-c", "mkdir /out; echo guest >/out/file; ln -s file /out/link")
	p.ok("cp", id+":/out", p.Path("copied"))
	p.Equal("on the host", p.Read(p.Path("copied/link")), "guest\n")
}

// TestPauseStatsTop looks at a running container, and halts it.
func TestPauseStatsTop(t *testing.T) {
	p := newPodman(t)
	id := p.detached("--memory", "64m", image, "sh", "-c", "echo ready; while :; do echo tick >>/ticks; sleep 0.1; done")
	p.logged(id, "ready")

	var stats []struct {
		MemUsage string `json:"mem_usage"`
		PIDs     string `json:"pids"`
	}
	out := p.ok("stats", "--no-stream", "--format", "json", id)
	if err := json.Unmarshal([]byte(out), &stats); err != nil || len(stats) != 1 || stats[0].MemUsage == "" || strings.HasPrefix(stats[0].PIDs, "0") {
		t.Errorf("stats: %v: %s", err, out)
	}
	// What podman shows are the host's processes of the container.
	if out := p.ok("top", id); !strings.Contains(out, "USER") || len(strings.Split(out, "\n")) < 2 {
		t.Errorf("top: %s", out)
	}

	p.ok("pause", id)
	p.Equal("status", p.status(id), "paused 0")
	count := func() int {
		return strings.Count(p.Read(filepath.Join(p.ok("inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", id), "ticks")), "tick")
	}
	before := count()
	time.Sleep(500 * time.Millisecond) // five ticks of one that runs
	p.Equal("ticks while paused", count()-before, 0)
	p.ok("unpause", id)
	testenv.Eventually(t, 30*time.Second, func() error {
		if count() == before {
			return fmt.Errorf("still %d ticks", before)
		}
		return nil
	})
}

// TestHealth runs a health check by hand, as podman's timer does.
func TestHealth(t *testing.T) {
	p := newPodman(t)
	id := p.detached("--health-cmd", "test -e /healthy", "--health-interval", "disable", "--health-retries", "1", image, "sleep", "1000000")
	if res := p.do(nil, "healthcheck", "run", id); res.Code != 1 {
		t.Errorf("of an unhealthy container: %s", res)
	}
	p.ok("exec", id, "touch", "/healthy")
	p.ok("healthcheck", "run", id)
	p.Equal("health", p.ok("inspect", "--format", "{{.State.Health.Status}}", id), "healthy")
}

// TestSecretsVolumesInit has what podman prepares for a container on the host.
func TestSecretsVolumesInit(t *testing.T) {
	p := newPodman(t)
	p.Write("secret", "hush")
	p.ok("secret", "create", "word", p.Path("secret"))
	t.Cleanup(func() { p.ok("secret", "rm", "word") })
	p.ok("volume", "create", "data")
	t.Cleanup(func() { p.ok("volume", "rm", "data") })
	res := p.run(nil, "--rm", "--init", "--secret", "word", "--secret", "word,type=env,target=WORD", "-v", "data:/data", image,
		"sh", "-c", "cat /run/secrets/word; echo $WORD; cat /proc/1/comm; echo kept >/data/file")
	p.gives(res, 0, "hushhush\npodman-init\n")
	p.gives(p.run(nil, "--rm", "-v", "data:/data:ro", image, "cat", "/data/file"), 0, "kept\n")
}

// TestRestart has a container that fails be started again, and end at last.
// podman 4.3 starts it again without its --runtime-flag.
func TestRestart(t *testing.T) {
	p := newPodman(t)
	id := p.detached("--restart", "on-failure:2", image, "sh", "-c", "echo run; exit 3")
	testenv.Eventually(t, 2*time.Minute, func() error {
		if got := p.ok("inspect", "--format", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", id); got != "2 exited 3" {
			return fmt.Errorf("restarts, status and code: %s", got)
		}
		return nil
	})
	p.Equal("log", p.ok("logs", id), "run\nrun\nrun")
}

// TestPod has two containers in one pod, that is in one machine: they share the
// network, and each has files of its own.
func TestPod(t *testing.T) {
	p := newPodman(t)
	p.pod("both")
	server := p.ok("run", "-d", "--pod", "both", image, "sh", "-c", "mkdir /www; echo page >/www/index.html; exec httpd -f -p 8080 -h /www")
	testenv.Eventually(t, time.Minute, func() error {
		res := p.do(nil, "run", "--rm", "--pod", "both", image, "wget", "-qO-", "http://127.0.0.1:8080/")
		if res.Code != 0 || res.Stdout != "page\n" {
			return fmt.Errorf("%s", res)
		}
		return nil
	})
	if p.IsVM() {
		p.Equal("machines", len(testenv.Processes("qemu-system-x86")), 1)
	}
	if res := p.do(nil, "run", "--rm", "--pod", "both", image, "ls", "/www"); res.Code == 0 {
		t.Errorf("the other container's files: %s", res)
	}
	p.ok("stop", "--time", "0", server)
	p.Equal("the other one stopped", p.ok("pod", "inspect", "--format", "{{.State}}", "both"), "Degraded")
	p.ok("pod", "rm", "--force", "--time", "0", "both")
}

// pod makes a pod without a network, to be removed by what it gives, or at the
// end. podman leaves the pod's cgroups in hierarchies of a hybrid host.
func (p podman) pod(name string) (remove func()) {
	p.Helper()
	id := p.ok("pod", "create", "--name", name, "--network", "none", "--cgroup-parent", "/"+p.Prefix)
	remove = func() {
		p.ok("pod", "rm", "--force", "--time", "0", "--ignore", name)
		dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + p.Prefix + "/" + id)
		if err != nil {
			p.Fatal(err)
		}
		for _, dir := range dirs {
			unix.Rmdir(filepath.Join(dir, "conmon")) // is not in every hierarchy
			if err := unix.Rmdir(dir); err != nil {
				p.Errorf("remove %s: %v", dir, err)
			}
		}
	}
	p.Cleanup(remove)
	return remove
}

// TestPublish reaches a container by a port of the host, over a bridge that
// podman makes by CNI.
func TestPublish(t *testing.T) {
	p := newPodman(t)
	p.withNetwork()
	cmd := []string{"run", "-d", "--network", "testnet", "--cgroup-parent", "/" + p.Prefix, "-p", "18080:80", image,
		"sh", "-c", "mkdir /www; echo published >/www/index.html; exec httpd -f -p 80 -h /www"}
	id := p.ok(cmd...)
	t.Cleanup(func() { p.ok("rm", "--force", "--ignore", "--time", "0", id) })
	address := p.ok("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", id)
	for _, url := range []string{"http://" + address + "/", "http://10.97.0.1:18080/"} {
		testenv.Eventually(t, time.Minute, func() error {
			res, err := http.Get(url)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != "published\n" {
				return fmt.Errorf("%s: got %q, %v", url, b, err)
			}
			return nil
		})
	}
	http.DefaultClient.CloseIdleConnections()
	// And the container reaches another one by its name's address.
	res := p.do(nil, "run", "--rm", "--network", "testnet", "--cgroup-parent", "/"+p.Prefix, image, "wget", "-qO-", "http://"+address+"/")
	p.gives(res, 0, "published\n")
	p.ok("rm", "--force", "--time", "0", id)
}

// withNetwork gives podman a CNI network called testnet, whose traces go with
// the test.
func (p podman) withNetwork() {
	p.Helper()
	up, _ := os.ReadFile("/sys/class/net/lo/operstate")
	if strings.TrimSpace(string(up)) == "down" {
		p.command("ip", "link", "set", "lo", "up")
	}
	p.CNINetwork("vct0", "10.97.0.0/24")
	p.Cleanup(func() {
		// podman makes this folder a mount of its own, and leaves it.
		for unix.Unmount("/run/netns", 0) == nil {
		}
		if err := os.Remove("/run/netns"); err != nil {
			p.Error(err)
		}
	})
}

// command runs a tool of the host, which must succeed.
func (p podman) command(name string, args ...string) {
	p.Helper()
	if res := p.Run(p, testenv.Command{Path: testenv.Tool(p, name), Args: args}); res.Code != 0 {
		p.Fatal(res)
	}
}

// TestKube makes a pod of a file that podman has written of another one.
func TestKube(t *testing.T) {
	p := newPodman(t)
	remove := p.pod("first")
	// A pod from a file gets no PATH unless the image has one.
	p.ok("run", "-d", "--pod", "first", "--name", "worker", "-e", "PATH=/bin:/usr/bin", image, "sh", "-c", "echo at work; exec sleep 1000000")
	yaml := p.ok("generate", "kube", "first")
	remove()
	p.Write("pod.yaml", yaml)
	p.ok("play", "kube", "--network", "none", p.Path("pod.yaml"))
	p.logged("first-worker", "at work")
	p.ok("play", "kube", "--down", p.Path("pod.yaml"))
}
