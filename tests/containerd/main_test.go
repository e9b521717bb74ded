// Package containerd drives the runtime through Debian's containerd, unmodified:
// with ctr, and through its CRI plugin as the kubelet does.
//
// The daemon has its own folders and socket, and the suite's namespaces. Its
// configuration is the drop-in in packaging/, as it is, and what a machine has
// anyway; the runtime is where the drop-in says.
// Images are made here; there is no registry.
package containerd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite and daemon are set before the first test runs.
var (
	suite  *testenv.Suite
	daemon *testenv.Daemon
)

const (
	image      = "test.local/busybox:1"
	pauseImage = "test.local/pause:1"
	handler    = "vc-runtime"
	socket     = "/run/containerd-test/containerd.sock"
	bridge     = "vctest0"
	dropIn     = "containerd/config.toml"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, prepare)) }

// prepare starts containerd, imports the images and runs everything once, so
// that the folders are there that it never removes.
func prepare(s *testenv.Suite) (func() error, error) {
	// CNI's cache and host-local's addresses.
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", 0, ""); err != nil {
		return nil, fmt.Errorf("a /var/lib of the suite's own: %w", err)
	}
	s.Ignore = func(what string) bool {
		return what == "file "+filepath.Dir(socket)+"/io.containerd.grpc.v1.cri/containers"
	}
	// The streaming server listens there.
	if err := ip(s, "link", "set", "lo", "up"); err != nil {
		return nil, err
	}
	uninstall, err := s.Install(nil)
	if err != nil {
		return nil, err
	}
	config, err := writeConfig(s)
	if err != nil {
		return nil, errors.Join(err, uninstall())
	}
	path, err := exec.LookPath("containerd")
	if err != nil {
		return nil, fmt.Errorf("containerd is missing: run `hack/deps test`: %w", err)
	}
	if daemon, err = s.StartDaemon(testenv.Command{Path: path, Args: []string{"--config", config}, Env: environ(s)}); err != nil {
		return nil, err
	}
	undo := func() error {
		return errors.Join(daemon.Stop(), removeBridge(s), unix.Unmount("/var/lib", 0), removeCgroup(s), uninstall())
	}
	if err := warmUp(s); err != nil {
		return nil, errors.Join(fmt.Errorf("%w; the log: %s", err, daemon.Tail()), undo())
	}
	return undo, nil
}

func environ(s *testenv.Suite) []string {
	return []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + filepath.Join(s.Dir, "tmp")}
}

func warmUp(s *testenv.Suite) error {
	if err := awaitSocket(); err != nil {
		return err
	}
	archive, err := s.WriteImages(
		testenv.Image{Name: image, Cmd: []string{"sh"}},
		testenv.Image{Name: pauseImage, Cmd: []string{"sh", "-c", "sleep 1000000 & trap 'exit 0' TERM; wait"}},
	)
	if err != nil {
		return err
	}
	for _, namespace := range []string{"default", "k8s.io"} {
		cmd := ctrCommand(s, "--namespace", namespace, "images", "import", archive)
		res, err := s.Exec(cmd)
		if err == nil && res.Code != 0 {
			err = errors.New(res.String())
		}
		if err != nil {
			return err
		}
	}
	cmd := ctrCommand(s, append(runFlags(s), "--rm", image, s.Prefix+"-warm-up", "true")...)
	res, err := s.Exec(cmd)
	if err == nil && res.Code != 0 {
		err = errors.New(res.String())
	}
	return errors.Join(err, warmUpCRI(s))
}

func awaitSocket() error {
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		if err := daemon.Running(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containerd does not listen: %w", err)
		}
		time.Sleep(50 * time.Millisecond) // there is no event for a socket that is listened on
	}
}

// table is a table of a TOML file.
type table = map[string]any

// in gives a table in a table, which it makes where it is missing.
func in(t table, names ...string) table {
	for _, name := range names {
		next, ok := t[name].(table)
		if !ok {
			next = table{}
			t[name] = next
		}
		t = next
	}
	return t
}

// writeConfig writes containerd's configuration: the drop-in, and the suite's
// places. An import would do, but for containerd 1.6: there a plugin's table in one
// file takes the place of the whole of it in another.
func writeConfig(s *testenv.Suite) (string, error) {
	config := table{}
	text, err := testenv.DropIn(dropIn)
	if err != nil {
		return "", err
	}
	if err := toml.Unmarshal(text, &config); err != nil {
		return "", fmt.Errorf("%s: %w", dropIn, err)
	}
	cri := in(config, "plugins", "io.containerd.grpc.v1.cri")
	if runtime := in(cri, "containerd", "runtimes", handler, "options")["BinaryName"]; runtime != testenv.Installed {
		return "", fmt.Errorf("%s: BinaryName is %v", dropIn, runtime)
	}
	cri["sandbox_image"] = pauseImage
	cri["disable_apparmor"] = true
	in(cri, "cni")["bin_dir"] = "/usr/lib/cni"
	in(cri, "cni")["conf_dir"] = filepath.Join(s.Dir, "cni")
	config["root"] = filepath.Join(s.Dir, "containerd")
	config["state"] = filepath.Dir(socket)
	in(config, "grpc")["address"] = socket
	config["disabled_plugins"] = []string{
		"io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.zfs",
		"io.containerd.snapshotter.v1.devmapper", "io.containerd.internal.v1.tracing",
	}
	path := filepath.Join(s.Dir, "containerd.toml")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := toml.NewEncoder(f).Encode(config); err != nil {
		return "", err
	}
	return path, errors.Join(f.Close(), writeNetwork(s))
}

// writeNetwork makes a network of bridge and host-local.
func writeNetwork(s *testenv.Suite) error {
	dir := filepath.Join(s.Dir, "cni")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "test", "plugins": [{
	"type": "bridge", "bridge": %q, "isGateway": true,
	"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "192.0.2.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}`, bridge, filepath.Join(s.Dir, "addresses"))
	return os.WriteFile(filepath.Join(dir, "10-test.conflist"), []byte(text), 0o644)
}

// removeBridge removes what the bridge plugin leaves for the next pod.
func removeBridge(s *testenv.Suite) error { return ip(s, "link", "delete", bridge) }

// ip runs ip(8).
func ip(s *testenv.Suite, args ...string) error {
	path, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	res, err := s.Exec(testenv.Command{Path: path, Args: args})
	if err == nil && res.Code != 0 {
		err = errors.New(res.String())
	}
	return err
}

// removeCgroup removes the parent of the suite's cgroups, which is empty now.
func removeCgroup(s *testenv.Suite) error {
	dirs, err := filepath.Glob("/sys/fs/cgroup/*/" + s.Prefix)
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range append(dirs, "/sys/fs/cgroup/"+s.Prefix) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// noComplaint checks that containerd has not had to try anything twice.
func noComplaint(t testing.TB, from int64) {
	t.Helper()
	b, err := os.ReadFile(daemon.Log)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b[from:])) {
		for _, bad := range []string{"resource busy", "cleanup rootfs mount", "failed to umount", "failed to unmount"} {
			if strings.Contains(line, bad) {
				t.Errorf("containerd says: %s", line)
			}
		}
	}
}

// logSize is where the log ends now.
func logSize(t testing.TB) int64 {
	t.Helper()
	st, err := os.Stat(daemon.Log)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}
