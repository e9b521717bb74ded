package docker

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// serve is a web server that says a word.
func serve(word string) []string {
	return []string{"sh", "-c", "mkdir /www; echo " + word + " >/www/index.html; exec httpd -f -p 80 -h /www"}
}

// TestPublish reaches a port that docker has published: over the suite's
// loopback, where docker's proxy listens, and from another machine, as it were: a
// network namespace, whose packets docker's rules send on.
func TestPublish(t *testing.T) {
	d := newDocker(t)
	d.detached(append([]string{"-p", "18080:80", image}, serve("published")...)...)
	there := d.otherMachine("198.51.100.1", "198.51.100.2")
	get := []string{filepath.Join(d.Base, "bin/probe"), "get"}
	for _, from := range [][]string{
		append(get, "http://127.0.0.1:18080/"),
		append(append(there, get...), "http://198.51.100.1:18080/"),
	} {
		testenv.Eventually(t, time.Minute, func() error {
			res := d.Run(d, testenv.Command{Path: from[0], Args: from[1:]})
			if res.Code != 0 || res.Stdout != "published\nprobe get ok\n" {
				return fmt.Errorf("%s", res)
			}
			return nil
		})
	}
}

// otherMachine makes a network namespace that is linked with the suite's, and
// gives the command that runs a program in it.
func (d docker) otherMachine(here, there string) []string {
	d.Helper()
	ns := d.Write("netns", "")
	tool := func(args ...string) {
		d.Helper()
		if res := d.Run(d, testenv.Command{Path: testenv.Tool(d, args[0]), Args: args[1:], Env: environ(d.Suite)}); res.Code != 0 {
			d.Fatal(res)
		}
	}
	tool("unshare", "--net="+ns, "true")
	d.Cleanup(func() {
		tool("ip", "link", "delete", "vctest0")
		if err := unix.Unmount(ns, 0); err != nil {
			d.Error(err)
		}
	})
	enter := []string{testenv.Tool(d, "nsenter"), "--net=" + ns}
	tool("ip", "link", "add", "vctest0", "type", "veth", "peer", "name", "vctest1", "netns", ns)
	tool("ip", "address", "add", here+"/24", "dev", "vctest0")
	tool("ip", "link", "set", "vctest0", "up")
	tool("nsenter", enter[1], "ip", "address", "add", there+"/24", "dev", "vctest1")
	tool("nsenter", enter[1], "ip", "link", "set", "vctest1", "up")
	return enter
}

// network makes a network of docker's, which goes with the test.
func (d docker) network(name string, flags ...string) {
	d.Helper()
	d.ok(append(append([]string{"network", "create"}, flags...), name)...)
	d.Cleanup(func() { d.ok("network", "rm", name) })
}

// TestNames has containers on a network of the user's reach each other by name
// and by alias, as docker's own DNS server knows them.
func TestNames(t *testing.T) {
	d := newDocker(t)
	d.network("lan")
	d.detached(append([]string{"--name", "web", "--network", "lan", "--network-alias", "www", image}, serve("by name")...)...)
	client := d.detached("--name", "client", "--network", "lan", image, "sleep", "1000000")
	for _, name := range []string{"web", "www"} {
		testenv.Eventually(t, time.Minute, func() error {
			res := d.do(nil, "exec", client, "probe", "get", "http://"+name+"/")
			if res.Code != 0 || res.Stdout != "by name\nprobe get ok\n" {
				return fmt.Errorf("%s", res)
			}
			return nil
		})
	}
}

// TestNameServer has a container that is a DNS server itself, on all addresses, ask
// docker's for names: the two do not get into each other's way.
func TestNameServer(t *testing.T) {
	d := newDocker(t)
	d.network("lan")
	d.detached("--name", "web", "--network", "lan", image, "sleep", "1000000")
	d.gives(d.run(nil, "--rm", "--network", "lan", "--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", image, "probe", "names", "web"), 0, "probe names ok\n")
}

// TestNetworks has a container in two networks, the second one given between
// create and start.
func TestNetworks(t *testing.T) {
	d := newDocker(t)
	d.network("first", "--subnet", "10.99.201.0/24")
	d.network("second", "--subnet", "10.99.202.0/24")
	id := d.ok("create", "--runtime", runtime, "--network", "first", image, "ip", "-o", "-4", "address")
	t.Cleanup(func() { d.removed(id) })
	d.ok("network", "connect", "second", id)
	res := d.do(nil, "start", "--attach", id)
	for _, want := range []string{" 10.99.201.2/24 ", " 10.99.202.2/24 "} {
		if !strings.Contains(res.Stdout, want) {
			t.Errorf("no address%s: %s", want, res)
		}
	}
	d.gives(d.run(nil, "--rm", "--network", "none", image, "sh", "-c", "ls /sys/class/net"), 0, "lo\n")
}

// TestFirstInstruction starts containers whose process looks for its network
// before it does anything else, two at a time. Each has to find all of it.
func TestFirstInstruction(t *testing.T) {
	starts := 10
	if v := os.Getenv("VC_DOCKER_STARTS"); v != "" {
		var err error
		if starts, err = strconv.Atoi(v); err != nil {
			t.Fatalf("VC_DOCKER_STARTS: %v", err)
		}
	}
	d := newDocker(t)
	cmd, err := command(d.Suite, "run", "--rm", "--runtime", runtime, image, "probe", "network", "/sys/class/net/eth0")
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^eth0 up, 10\.98\.0\.\d+/24, by 10\.98\.0\.1\nprobe network ok\n$`)
	var complete atomic.Int64
	var running sync.WaitGroup
	for turn := range 2 {
		running.Go(func() {
			for i := turn; i < starts; i += 2 {
				if res, err := d.Suite.Exec(cmd); err != nil || res.Code != 0 || !want.MatchString(res.Stdout) {
					t.Errorf("%v, %v", res, err)
				} else {
					complete.Add(1)
				}
			}
		})
	}
	running.Wait()
	t.Logf("%d of %d processes had their network at their first instruction", complete.Load(), starts)
}
