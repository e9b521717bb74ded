package integration

import (
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestNetwork wires a network namespace as docker and podman do, between
// create and start, and reaches the host's end from the process's first
// instruction on.
func TestNetwork(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	ip := testenv.Tool(t, "ip")
	run := func(args string) {
		t.Helper()
		if res := suite.Run(t, testenv.Command{Path: ip, Args: strings.Fields(args)}); res.Code != 0 {
			t.Fatal(res)
		}
	}
	run("netns add vctest")
	defer func() {
		run("netns delete vctest")
		// ip(8) leaves the folder, mounted on itself.
		if err := unix.Unmount("/run/netns", 0); err != nil {
			t.Error(err)
		}
		if err := os.Remove("/run/netns"); err != nil {
			t.Error(err)
		}
	}()
	c := e.Container(nil, testenv.Capabilities("CAP_NET_RAW"), testenv.Shell("ip -o address show eth0; ping -c 1 -W 5 192.0.2.1; echo ping $?"),
		func(s *specs.Spec) {
			for i := range s.Linux.Namespaces {
				if s.Linux.Namespaces[i].Type == specs.NetworkNamespace {
					s.Linux.Namespaces[i].Path = "/run/netns/vctest"
				}
			}
		})
	run("link add vctest type veth peer name eth0 netns vctest")
	run("address add 192.0.2.1/24 dev vctest")
	run("link set vctest up")
	run("-n vctest address add 192.0.2.2/24 dev eth0")
	run("-n vctest link set eth0 up")
	c.Start()
	if code := c.Wait(exitLimit); code != 0 || !strings.Contains(c.Stdout(), "192.0.2.2/24") || !strings.Contains(c.Stdout(), "ping 0\n") {
		t.Errorf("exit code %d\n%s%s", code, c.Stdout(), c.Stderr())
	}
	c.Delete()
}
