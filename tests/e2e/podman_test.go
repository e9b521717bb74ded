// Package e2e drives the runtime with the container engines that it is for.
// The engines come from Debian and are not modified.
//
// podman needs no settings but its own: storage and locks of the suite. It reads
// packaging/containers.conf as it is, and finds the runtime where that says. It
// calls some verbs without its runtime flags, so that the runtime's default state
// folder is used, in the suite's own /run.
package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

const (
	image   = "localhost/busybox:test"
	runtime = "vc-runtime" // as the drop-in calls it
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, prepare)) }

// prepare imports the image. podman then has everything in place that it
// never takes away.
func prepare(s *testenv.Suite) (func() error, error) {
	dropIn, err := testenv.DropIn("containers.conf")
	if err != nil {
		return nil, err
	}
	uninstall, err := s.Install(map[string][]byte{"containers/containers.conf": dropIn})
	if err != nil {
		return nil, err
	}
	if err := warmUp(s); err != nil {
		return nil, errors.Join(err, takeAway(s), uninstall())
	}
	return func() error { return errors.Join(takeAway(s), uninstall()) }, nil
}

func warmUp(s *testenv.Suite) error {
	// podman mounts its storage on itself, and takes that away when it thinks
	// that nobody uses it. A container's mount is below it.
	storage := "mount " + filepath.Join(s.Dir, "storage", "overlay")
	s.Ignore = func(what string) bool { return what == storage }
	archive := filepath.Join(s.Dir, "image.tar")
	tar, err := exec.LookPath("tar")
	if err != nil {
		return err
	}
	res, err := s.Exec(testenv.Command{Path: tar, Args: []string{"-C", s.Base, "-cf", archive, "."}})
	if err == nil && res.Code != 0 {
		err = errors.New(res.String())
	}
	if err != nil {
		return err
	}
	commands := [][]string{
		{"import", "--change", `CMD ["sh"]`, archive, image},
		// Makes the folders, files and cgroups that stay.
		append(append([]string{"run"}, runFlags(s)...), "--rm", image, "true"),
	}
	for _, args := range commands {
		cmd, err := podmanCommand(s, testenv.InstalledConfig, args...)
		if err != nil {
			return err
		}
		res, err := s.Exec(cmd)
		if err != nil {
			return err
		}
		if res.Code != 0 {
			return errors.New(res.String())
		}
	}
	return nil
}

// takeAway undoes what podman leaves in place for the next time.
func takeAway(s *testenv.Suite) error {
	var errs []error
	if err := unix.Unmount(filepath.Join(s.Dir, "storage", "overlay"), 0); err != nil && !errors.Is(err, unix.EINVAL) {
		errs = append(errs, fmt.Errorf("unmount podman's storage: %w", err))
	}
	parents, err := filepath.Glob("/sys/fs/cgroup/*/" + s.Prefix)
	errs = append(errs, err)
	for _, dir := range parents {
		unix.Rmdir(filepath.Join(dir, "conmon")) // is not in every hierarchy
		errs = append(errs, unix.Rmdir(dir))
	}
	return errors.Join(errs...)
}

// runFlags are those of podman run and create.
func runFlags(s *testenv.Suite) []string {
	return []string{"--network", "none", "--cgroup-parent", "/" + s.Prefix}
}

// podmanCommand is podman with the suite's storage and runtime.
func podmanCommand(s *testenv.Suite, config string, args ...string) (testenv.Command, error) {
	path, err := exec.LookPath("podman")
	if err != nil {
		return testenv.Command{}, fmt.Errorf("podman is missing: run `hack/deps test`: %w", err)
	}
	in := func(name string) string { return filepath.Join(s.Dir, name) }
	global := []string{
		"--root", in("storage"), "--runroot", "/run/podman-test", "--tmpdir", "/run/podman-tmp",
		"--storage-driver", "overlay", "--cgroup-manager", "cgroupfs", "--events-backend", "file",
		"--runtime", runtime,
	}
	if s.IsVM() {
		global = append(global, "--runtime-flag", "config="+config)
	}
	return testenv.Command{
		Path: path, Args: append(global, args...),
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + in("home"), "TMPDIR=" + in("tmp")},
	}, nil
}

// podman is one test's podman.
type podman struct{ *testenv.Env }

func newPodman(t testing.TB) podman { return podman{suite.New(t)} }

// do runs podman.
func (p podman) do(stdin io.Reader, args ...string) *testenv.Result {
	p.Helper()
	cmd, err := podmanCommand(p.Suite, p.Config, args...)
	if err != nil {
		p.Fatal(err)
	}
	cmd.Stdin = stdin
	return p.Run(p, cmd)
}

// ok runs podman, which must succeed, and gives its output without the end of
// the line.
func (p podman) ok(args ...string) string {
	p.Helper()
	res := p.do(nil, args...)
	if res.Code != 0 {
		p.Fatal(res)
	}
	return strings.TrimSuffix(res.Stdout, "\n")
}

// run is `podman run` without a network. The container's name, where it has
// one that stays, is its own business.
func (p podman) run(stdin io.Reader, args ...string) *testenv.Result {
	p.Helper()
	return p.do(stdin, append(append([]string{"run"}, runFlags(p.Suite)...), args...)...)
}

// detached starts a container with `run -d`, to be removed at the end.
func (p podman) detached(args ...string) string {
	p.Helper()
	res := p.run(nil, append([]string{"-d"}, args...)...)
	if res.Code != 0 {
		p.Fatal(res)
	}
	id := strings.TrimSpace(res.Stdout)
	p.Cleanup(func() { p.ok("rm", "--force", "--ignore", "--time", "0", id) })
	return id
}

// gives checks a result.
func (p podman) gives(res *testenv.Result, code int, stdout string) {
	p.Helper()
	if res.Code != code || res.Stdout != stdout {
		p.Errorf("expected exit code %d and stdout %q: %s", code, stdout, res)
	}
}
