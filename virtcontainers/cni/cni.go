// Package cni gives a container that is run from an image a network: one that
// the host's CNI configuration describes, as podman and CRI-O use it
// (github.com/containernetworking/cni, SPEC.md). It runs in the command and in
// the hooks of such a container; engines that call the runtime bring networks
// of their own.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni" // the specification's own library
)

// ErrNone is given where no network is configured.
var ErrNone = errors.New("no CNI network is configured")

// interfaceName is what the container's interface is called.
const interfaceName = "eth0"

// Dirs are where CNI is on the host.
type Dirs struct {
	Config  string   // folder of the network configurations
	Plugins []string // folders of the plugins
}

// DefaultDirs are the usual places: the specification's, and Debian's for the
// plugins.
func DefaultDirs() Dirs {
	return Dirs{Config: "/etc/cni/net.d", Plugins: []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}}
}

// Port is a port of the host that leads to one of the container.
type Port struct {
	HostIP        string `json:"hostIP,omitempty"`
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"` // tcp, udp or sctp
}

// Network is a network, and who joins it. As JSON it is all that Leave needs,
// whatever becomes of the host's configuration.
type Network struct {
	Name      string          `json:"name"`
	Config    json.RawMessage `json:"config"`
	Plugins   []string        `json:"plugins"`
	Container string          `json:"container"`
	Ports     []Port          `json:"ports,omitempty"`
	// Cache is a folder of its own for what the library remembers.
	Cache string `json:"cache"`
}

// Find gives the network with the name; with "" the first one, by the names of
// the files, as other engines do.
func Find(d Dirs, name string) (*Network, error) {
	files, err := libcni.ConfFiles(d.Config, []string{".conf", ".conflist", ".json"})
	if err != nil {
		return nil, fmt.Errorf("list networks in %s: %w", d.Config, err)
	}
	slices.Sort(files)
	var known []string
	for _, file := range files {
		list, err := read(file)
		if err != nil {
			return nil, fmt.Errorf("network in %s: %w", file, err)
		}
		if name == "" || list.Name == name {
			return &Network{Name: list.Name, Config: list.Bytes, Plugins: d.Plugins}, nil
		}
		known = append(known, list.Name)
	}
	if name == "" {
		return nil, fmt.Errorf("%w in %s", ErrNone, d.Config)
	}
	return nil, fmt.Errorf("network %q is not configured in %s: expected %s", name, d.Config,
		strings.Join(append(known, "none"), ", "))
}

// read reads a list of plugins, or the configuration of one as such a list.
func read(file string) (*libcni.NetworkConfigList, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if filepath.Ext(file) == ".conflist" {
		return libcni.ConfListFromBytes(text)
	}
	conf, err := libcni.ConfFromBytes(text)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(conf)
}

// Join makes the interface in the network namespace at path netns. What it has
// done when it fails is undone by Leave.
func (n *Network) Join(ctx context.Context, netns string) error {
	list, err := libcni.ConfListFromBytes(n.Config)
	if err != nil {
		return err
	}
	if len(n.Ports) > 0 && !maps(list) {
		return fmt.Errorf("network %s cannot publish ports: none of its plugins has the capability portMappings", n.Name)
	}
	if _, err := n.library().AddNetworkList(ctx, list, n.runtime(netns)); err != nil {
		return fmt.Errorf("join network %s: %w", n.Name, err)
	}
	return nil
}

// Leave gives back what Join has got. The network namespace may have gone. It
// can be repeated, and is right after a Join that failed.
func (n *Network) Leave(ctx context.Context) error {
	list, err := libcni.ConfListFromBytes(n.Config)
	if err != nil {
		return err
	}
	if err := n.library().DelNetworkList(ctx, list, n.runtime("")); err != nil {
		return fmt.Errorf("leave network %s: %w", n.Name, err)
	}
	return nil
}

// maps reports whether a network can map ports.
func maps(list *libcni.NetworkConfigList) bool {
	return slices.ContainsFunc(list.Plugins, func(p *libcni.NetworkConfig) bool {
		return p.Network.Capabilities["portMappings"]
	})
}

func (n *Network) library() *libcni.CNIConfig {
	return libcni.NewCNIConfigWithCacheDir(n.Plugins, n.Cache, nil)
}

func (n *Network) runtime(netns string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: n.Container, NetNS: netns, IfName: interfaceName, CacheDir: n.Cache,
		Args: [][2]string{{"IgnoreUnknown", "1"}},
	}
	if len(n.Ports) > 0 {
		rt.CapabilityArgs = map[string]any{"portMappings": n.Ports}
	}
	return rt
}

// ParsePort reads docker's and podman's form of a port: [[IP:]HOST:]PORT[/PROTOCOL].
// Without a port of the host it is the same one as the container's.
func ParsePort(s string) (Port, error) {
	wrong := fmt.Errorf("port %q: expected [[IP:]HOST-PORT:]PORT[/tcp|/udp|/sctp]", s)
	rest, protocol, given := strings.Cut(s, "/")
	if !given {
		protocol = "tcp"
	}
	if !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return Port{}, wrong
	}
	p := Port{Protocol: protocol}
	head, last, split := cutLast(rest)
	var ok bool
	if p.ContainerPort, ok = portNumber(last); !ok {
		return Port{}, wrong
	}
	p.HostPort = p.ContainerPort
	if !split {
		return p, nil
	}
	ip, host, hasIP := cutLast(head)
	if !hasIP {
		host = head
	} else if p.HostIP, ok = address(ip); !ok {
		return Port{}, wrong
	}
	if p.HostPort, ok = portNumber(host); !ok {
		return Port{}, wrong
	}
	return p, nil
}
