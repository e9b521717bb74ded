package testenv

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CNINetwork configures a CNI network called testnet, the only one: a bridge with
// a subnet such as "10.96.0.0/24", with ports of the host. Bridge, configuration and
// what plugins keep go with the test.
func (e *Env) CNINetwork(bridge, subnet string) {
	e.Helper()
	const state = "/var/lib/cni"
	if err := os.MkdirAll(state, 0o755); err != nil {
		e.Fatal(err)
	}
	for _, dir := range []string{state, "/etc/cni/net.d"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			e.Fatal(err)
		}
		e.Cleanup(func() {
			if err := unix.Unmount(dir, 0); err != nil {
				e.Error(err)
			}
		})
	}
	network := fmt.Sprintf(`{"cniVersion":"0.4.0","name":"testnet","plugins":[
		{"type":"bridge","bridge":%q,"isGateway":true,"ipam":{"type":"host-local","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":%q}]]}},
		{"type":"portmap","capabilities":{"portMappings":true}}]}`, bridge, subnet)
	if err := os.WriteFile("/etc/cni/net.d/10-testnet.conflist", []byte(network), 0o644); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if res := e.Run(e, Command{Path: Tool(e, "ip"), Args: []string{"link", "delete", bridge}}); res.Code != 0 {
			e.Error(res)
		}
	})
}
