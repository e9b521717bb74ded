package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/vc-runtime/vc-runtime"

// internal says, for each tree of packages, what it may import of this
// module; the longest tree that holds a package counts. Every tree may import
// itself. Tests are free.
var internal = map[string][]string{
	"cmd/vc-runtime": {"image", "state", "trace", "virtcontainers"}, // no hypervisor: only the monitor has machines
	"cmd/vc-agent":   {"agent"},

	"virtcontainers":                 {"state", "trace"},
	"virtcontainers/shim":            {"agent/api", "state", "trace", "virtcontainers"},
	"virtcontainers/network":         {"agent/api", "hypervisor", "state/failpoint", "trace"},
	"virtcontainers/monitor/sandbox": {"agent/api", "agent/client", "agent/guestimage", "hypervisor", "state", "trace", "virtcontainers"},

	"hypervisor":           {"state"},
	"hypervisor/qemu":      {"agent/api", "hypervisor", "state", "trace"}, // the name of the channel's port
	"hypervisor/hypertest": {"agent/api", "hypervisor", "state"},
	"hypervisor/qmp":       {"trace"},

	"trace": {}, // every process of ours on the host may write one

	"state":           {"state/lifecycle"},
	"state/lifecycle": {},

	"agent":                  {},
	"agent/api":              {}, // host and guest share it: nothing of ours
	"agent/client":           {"agent/api", "trace"},
	"agent/guestimage":       {"agent/api"},
	"agent/guestimage/build": {"agent/api", "agent/guestimage"},

	"image": {"state"},
	"hack":  {"."},
	"tests": {"."},
}

// external are the modules that our programs are made with, and why.
var external = map[string]string{
	"github.com/BurntSushi/toml":             "the configuration file",
	"github.com/cilium/ebpf":                 "connections to a pod's localhost are steered by a BPF program: assembler, loader and link",
	"github.com/containerd/ttrpc":            "the guest protocol's calls",
	"github.com/docker/go-units":             "amounts of memory on the command line, as runc reads them",
	"github.com/distribution/reference":      "references to images: docker's own parser",
	"github.com/gofrs/flock":                 "locks of the records",
	"github.com/hashicorp/yamux":             "streams over the guest channel",
	"github.com/mdlayher/vsock":              "the guest channel where the host has vsock",
	"github.com/containernetworking/cni":     "networks of containers that are run from images: the specification's own library",
	"github.com/opencontainers/image-spec":   "types of an image's configuration",
	"oras.land/oras-go/v2":                   "a registry's tokens, credentials and retries: what ORAS, Helm and Flux use",
	"github.com/opencontainers/go-digest":    "of image-spec",
	"github.com/moby/sys/user":               "who an image's process is: what docker, containerd and runc read passwd and group with",
	"github.com/opencontainers/runtime-spec": "types of config.json",
	"github.com/sirupsen/logrus":             "the log",
	"github.com/urfave/cli/v2":               "the command line",
	"github.com/vishvananda/netlink":         "interfaces, routes and traffic control of a namespace",
	"github.com/coreos/go-systemd/v22":       "scopes of the systemd cgroup driver, and whether stderr is the journal: the library that runc and podman use",
	"github.com/klauspost/compress":          "layers of images: gzip at twice the speed of the standard library's, and zstd",
	"golang.org/x/sys":                       "system calls",
	"google.golang.org/grpc":                 "errors of ttrpc calls",
	"google.golang.org/protobuf":             "messages of ttrpc calls",

	"github.com/containerd/log":                 "of ttrpc",
	"google.golang.org/genproto/googleapis/rpc": "of ttrpc and grpc/status",
	"github.com/cpuguy83/go-md2man/v2":          "of cli",
	"github.com/russross/blackfriday/v2":        "of cli",
	"github.com/xrash/smetrics":                 "of cli",
	"github.com/vishvananda/netns":              "of netlink",
	"github.com/godbus/dbus/v5":                 "of go-systemd",
	"github.com/mdlayher/socket":                "of vsock",
	"golang.org/x/net":                          "of vsock",
	"golang.org/x/sync":                         "of vsock",
}

// agentModules are those of external that the agent may have: each is code
// that faces the container and that every start of a machine pays for.
var agentModules = []string{
	"github.com/containerd/log",
	"github.com/containerd/ttrpc",
	"github.com/hashicorp/yamux",
	"github.com/mdlayher/socket",
	"github.com/mdlayher/vsock",
	"github.com/moby/sys/user",
	"github.com/sirupsen/logrus", // of ttrpc
	"golang.org/x/net",
	"golang.org/x/sync",
	"golang.org/x/sys",
	"google.golang.org/genproto/googleapis/rpc",
	"google.golang.org/grpc",
	"google.golang.org/protobuf",
}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Module     *struct{ Path string }
}

// list asks go list about packages of the module, as seen from its root.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	watch(t)
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Module"}, args...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.Bytes())
	}
	var found []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		found = append(found, p)
	}
}

// watch reads every folder of source. A test's result is cached until a file
// or folder that the test itself has opened changes; what go list opens does
// not count.
func watch(t *testing.T) {
	t.Helper()
	for tree := range internal {
		err := filepath.WalkDir(filepath.Join("../..", tree), func(_ string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // a tree that is still to come
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// within tells whether a package lies in a tree; "." holds all.
func within(name, tree string) bool {
	return tree == "." || name == tree || strings.HasPrefix(name, tree+"/")
}

func TestDirections(t *testing.T) {
	for _, p := range list(t, "./...") {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		rule := ""
		for tree := range internal {
			if within(from, tree) && len(tree) > len(rule) {
				rule = tree
			}
		}
		if rule == "" {
			t.Errorf("package %s is in no tree of the table", from)
			continue
		}
		for _, to := range p.Imports {
			to, ours := strings.CutPrefix(to, module+"/")
			if ours && !allowed(rule, to) {
				t.Errorf("%s imports %s: the table does not let %s do that", from, to, rule)
			}
		}
	}
}

func allowed(rule, to string) bool {
	for _, tree := range append([]string{rule}, internal[rule]...) {
		if within(to, tree) {
			return true
		}
	}
	return false
}

func TestModules(t *testing.T) {
	// Of the tests' own modules nothing is shipped.
	for _, p := range list(t, "-deps", "./cmd/...", "./agent/guestimage/mkguest") {
		if p.Module == nil || p.Module.Path == module {
			continue
		}
		if _, ok := external[p.Module.Path]; !ok {
			t.Errorf("module %s (for %s) is not in the table", p.Module.Path, p.ImportPath)
		}
	}
}

func TestAgentModules(t *testing.T) {
	ok := map[string]bool{module: true}
	for _, m := range agentModules {
		ok[m] = true
		if _, known := external[m]; !known {
			t.Errorf("module %s has no reason in the table", m)
		}
	}
	for _, p := range list(t, "-deps", "./cmd/vc-agent") {
		if p.Module != nil && !ok[p.Module.Path] {
			t.Errorf("the agent has grown module %s (for %s)", p.Module.Path, p.ImportPath)
		}
	}
}
