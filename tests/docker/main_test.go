// Package docker drives the runtime through Debian's docker.io, unmodified. The
// daemon and its containerd have their own folders and sockets, in the suite's
// namespaces; a daemon of the machine is neither needed nor seen. What the daemon
// reads is packaging/docker/daemon.json as it is, and --add-runtime names the runtime once more.
//
//	VC_DOCKER_STARTS  how many containers look for their network at their start; 10
//
// With VC_RUNTIME=/usr/sbin/runc the suite runs against runc.
package docker

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite and daemon are set before the first test runs.
var (
	suite  *testenv.Suite
	daemon *testenv.Daemon
)

const (
	image   = "test.local/busybox:1"
	runtime = "vc-runtime" // as the drop-in calls it
	byFlag  = "by-flag"    // as --add-runtime does
	state   = "/run/docker-test"
	socket  = state + "/docker.sock"
	// limit is above the runtime's own for a create, whose text is to be seen.
	limit = 5 * time.Minute
	// gateway is the host's end of docker's bridge.
	gateway = "10.98.0.1"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, prepare)) }

// undos are run from the last one to the first.
type undos []func() error

func (u *undos) add(f func() error) { *u = append(*u, f) }

func (u *undos) run() error {
	var errs []error
	for _, f := range slices.Backward(*u) {
		errs = append(errs, f())
	}
	*u = nil
	return errors.Join(errs...)
}

// prepare starts the daemons, loads the image and runs it once, so that what
// docker never takes away is there.
func prepare(s *testenv.Suite) (func() error, error) {
	var u undos
	if err := prepareWith(s, &u); err != nil {
		return nil, errors.Join(err, u.run())
	}
	return u.run, nil
}

func prepareWith(s *testenv.Suite, u *undos) error {
	// What namespaces were mounted on, which libnetwork removes once a minute.
	s.Ignore = func(what string) bool { return strings.HasPrefix(what, "file "+state+"/exec/netns/") }
	etc := make(map[string][]byte)
	if s.IsVM() { // no other one knows the flags that the drop-in has
		dropIn, err := testenv.DropIn("docker/daemon.json")
		if err != nil {
			return err
		}
		etc["docker/daemon.json"] = dropIn
	}
	uninstall, err := s.Install(etc)
	if err != nil {
		return err
	}
	u.add(uninstall)
	u.add(func() error { return removeCgroup(s) })
	if err := ip(s, "link", "set", "lo", "up"); err != nil {
		return err
	}
	if err := startContainerd(s, u); err != nil {
		return err
	}
	if err := startDocker(s, u); err != nil {
		return err
	}
	if err := warmUp(s); err != nil {
		return fmt.Errorf("%w; the log: %s", err, daemon.Tail())
	}
	return nil
}

// program is the path of one of Debian's programs: another version of docker's
// may come first in PATH.
func program(name string) (string, error) {
	for _, dir := range []string{"/usr/sbin", "/usr/bin"} {
		if path := filepath.Join(dir, name); unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is missing: run `hack/deps test`: %w", name, err)
	}
	return path, nil
}

func environ(s *testenv.Suite) []string {
	return []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + filepath.Join(s.Dir, "home"),
		"TMPDIR=" + filepath.Join(s.Dir, "tmp"), "DOCKER_HOST=unix://" + socket,
	}
}

// start starts a daemon and waits until the client that is given gets an answer.
func start(s *testenv.Suite, name string, args []string, answers ...string) (*testenv.Daemon, error) {
	path, err := program(name)
	if err != nil {
		return nil, err
	}
	d, err := s.StartDaemon(testenv.Command{Path: path, Args: args, Env: environ(s)})
	if err != nil {
		return nil, err
	}
	client, err := program(answers[0])
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // there is no event for a daemon that is ready
		res, err := s.Exec(testenv.Command{Path: client, Args: answers[1:], Env: environ(s)})
		if err == nil && res.Code == 0 {
			return d, nil
		}
		if err == nil {
			err = errors.New(res.String())
		}
		if time.Now().After(deadline) || d.Running() != nil {
			return nil, errors.Join(fmt.Errorf("%s gives no answer: %w; the log: %s", name, err, d.Tail()), d.Stop())
		}
	}
}

func startContainerd(s *testenv.Suite, u *undos) error {
	address := state + "/containerd.sock"
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = %q\n",
		filepath.Join(s.Dir, "containerd"), state+"/containerd", address)
	path := filepath.Join(s.Dir, "containerd.toml")
	if err := os.WriteFile(path, []byte(config), 0o644); err != nil {
		return err
	}
	d, err := start(s, "containerd", []string{"--config", path}, "ctr", "--address", address, "version")
	if err == nil {
		u.add(d.Stop)
	}
	return err
}

func startDocker(s *testenv.Suite, u *undos) (err error) {
	args := []string{
		"--data-root", filepath.Join(s.Dir, "docker"), "--exec-root", state + "/exec", "--pidfile", state + "/docker.pid",
		"--host", "unix://" + socket, "--containerd", state + "/containerd.sock", "--storage-driver", "overlay2",
		"--bip", gateway + "/24", "--default-address-pool", "base=10.99.0.0/16,size=24", "--cgroup-parent", "/" + s.Prefix,
		"--add-runtime", byFlag + "=" + testenv.Installed,
	}
	if !s.IsVM() {
		args = append(args, "--add-runtime", runtime+"="+testenv.Installed)
	}
	daemon, err = start(s, "dockerd", args, "docker", "version")
	if err == nil {
		u.add(func() error { return errors.Join(daemon.Stop(), ip(s, "link", "delete", "docker0")) })
	}
	return err
}

func warmUp(s *testenv.Suite) error {
	archive, err := s.WriteImages(testenv.Image{Name: image, Cmd: []string{"sh"}})
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"load", "--input", archive},
		{"run", "--rm", "--runtime", runtime, image, "true"},
	} {
		cmd, err := command(s, args...)
		if err != nil {
			return err
		}
		res, err := s.Exec(cmd)
		if err == nil && res.Code != 0 {
			err = errors.New(res.String())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ip runs ip(8).
func ip(s *testenv.Suite, args ...string) error {
	path, err := program("ip")
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
	errs := []error{err}
	for _, dir := range append(dirs, "/sys/fs/cgroup/"+s.Prefix) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// command is a command line of docker.
func command(s *testenv.Suite, args ...string) (testenv.Command, error) {
	path, err := program("docker")
	return testenv.Command{Path: path, Args: args, Env: environ(s)}, err
}

// docker is one test's docker.
type docker struct{ *testenv.Env }

func newDocker(t testing.TB) docker {
	d := docker{suite.New(t)}
	from := d.logSize()
	t.Cleanup(func() { d.noComplaint(from) })
	return d
}

// do runs docker.
func (d docker) do(stdin io.Reader, args ...string) *testenv.Result {
	d.Helper()
	cmd, err := command(d.Suite, args...)
	if err != nil {
		d.Fatal(err)
	}
	cmd.Stdin, cmd.Limit = stdin, limit
	return d.Run(d, cmd)
}

// ok runs docker, which must succeed, and gives its output without the end of
// the line.
func (d docker) ok(args ...string) string {
	d.Helper()
	res := d.do(nil, args...)
	if res.Code != 0 {
		d.Fatalf("%s\n%s", res, daemon.Tail())
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// run is `docker run` with the runtime.
func (d docker) run(stdin io.Reader, args ...string) *testenv.Result {
	d.Helper()
	return d.do(stdin, append([]string{"run", "--runtime", runtime}, args...)...)
}

// detached starts a container in the background, to be removed at the end.
func (d docker) detached(args ...string) string {
	d.Helper()
	id := d.ok(append([]string{"run", "--detach", "--runtime", runtime}, args...)...)
	d.Cleanup(func() { d.removed(id) })
	return id
}

// removed removes a container if it is there.
func (d docker) removed(id string) {
	d.Helper()
	if res := d.do(nil, "rm", "--force", id); res.Code != 0 && !strings.Contains(res.Stderr, "No such container") {
		d.Error(res)
	}
}

// gives checks a result.
func (d docker) gives(res *testenv.Result, code int, stdout string) {
	d.Helper()
	if res.Code != code || res.Stdout != stdout {
		d.Errorf("expected exit code %d and stdout %q: %s", code, stdout, res)
	}
}

// status is docker's view of a container.
func (d docker) status(id string) string {
	d.Helper()
	return d.ok("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", id)
}

// logged waits until a text is in a container's log.
func (d docker) logged(id, text string) {
	d.Helper()
	testenv.Eventually(d, time.Minute, func() error {
		if out := d.ok("logs", id); !strings.Contains(out, text) {
			return fmt.Errorf("no %q in the log: %s", text, out)
		}
		return nil
	})
}

func (d docker) logSize() int64 {
	d.Helper()
	st, err := os.Stat(daemon.Log)
	if err != nil {
		d.Fatal(err)
	}
	return st.Size()
}

// noComplaint checks that the daemon has not had to try anything twice.
func (d docker) noComplaint(from int64) {
	d.Helper()
	for line := range strings.Lines(d.Read(daemon.Log)[from:]) {
		for _, bad := range []string{"busy", "failed to umount", "failed to unmount", "Error removing mounted"} {
			if strings.Contains(line, bad) {
				d.Errorf("dockerd says: %s", line)
			}
		}
	}
}
