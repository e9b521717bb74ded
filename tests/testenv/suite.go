package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Suite is what the tests of one test program share.
type Suite struct {
	Runtime string // path of the runtime under test
	Guest   string // folder of the guest image
	Dir     string // temporary folder of the suite
	Base    string // busybox root file system, never written to
	// Prefix starts the id of every container, and so names what belongs to
	// the suite where the whole machine is visible: in the cgroup tree.
	Prefix string
	// Ignore, if set, says what is not a leak: what others make and remove as
	// they like. It gets lines such as "mount /x".
	Ignore func(what string) bool

	reaper *reaper
	serial atomic.Int64
}

// innerVar marks the process that runs in the suite's own namespaces, and
// names the suite's folder. The outer process makes and removes that: the
// mounts in it go with the inner one's namespace.
const innerVar = "VC_TESTENV_DIR"

// Main runs a suite and gives the exit code for os.Exit. suite gets the
// address of the suite before the first test runs. prepare, which may be nil,
// makes what the whole suite needs, and gives how it is taken away.
func Main(m *testing.M, suite **Suite, prepare func(*Suite) (func() error, error)) int {
	if os.Getenv(innerVar) == "" {
		code, err := runInside()
		if err != nil {
			fmt.Fprintln(os.Stderr, "testenv:", err)
			return 1
		}
		return code
	}
	s, err := newSuite()
	if err == nil {
		*suite = s
		var code int
		if code, err = s.run(m, prepare); err == nil {
			return code
		}
	}
	fmt.Fprintln(os.Stderr, "testenv:", err)
	return 1
}

// run runs the tests. What they leave behind is an error.
func (s *Suite) run(m *testing.M, prepare func(*Suite) (func() error, error)) (int, error) {
	undo := func() error { return nil }
	if prepare != nil {
		var err error
		if undo, err = prepare(s); err != nil {
			return 1, fmt.Errorf("prepare: %w", err)
		}
	}
	before, err := s.snapshot()
	if err != nil {
		return 1, errors.Join(err, undo())
	}
	code := m.Run()
	leaks := s.leaks(before)
	if err := undo(); err != nil {
		return 1, fmt.Errorf("undo what was prepared: %w", err)
	}
	if len(leaks) != 0 {
		return 1, fmt.Errorf("left behind by the suite: %s", strings.Join(leaks, "; "))
	}
	return code, nil
}

// runInside runs this program again in namespaces of its own, and gives its
// exit code.
func runInside() (int, error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("these tests need root")
	}
	// The parent-death signal is that of the thread which makes the child.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	exe, err := os.Executable()
	if err != nil {
		return 0, err
	}
	// Disk rather than a tmpfs: user.* attributes and large files.
	dir, err := os.MkdirTemp("/var/tmp", "vct")
	if err != nil {
		return 0, err
	}
	if os.Getenv("VC_KEEP") != "" {
		fmt.Fprintln(os.Stderr, "testenv: the suite's folder is", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	cmd := exec.Command(exe, os.Args[1:]...)
	cmd.Env = append(os.Environ(), innerVar+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the suite in its own namespaces: %w", err)
	}
	// A user's interrupt, or go test's SIGQUIT after the time-out.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT)
	go func() {
		for sig := range signals {
			cmd.Process.Signal(sig)
		}
	}()
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

// newSuite sets the inner process up.
func newSuite() (*Suite, error) {
	s := &Suite{Dir: os.Getenv(innerVar)}
	s.Prefix = filepath.Base(s.Dir)
	if err := errors.Join(defaultSignals(), isolate()); err != nil {
		return nil, err
	}
	if err := s.locate(); err != nil {
		return nil, err
	}
	var err error
	if s.reaper, err = startReaper(); err != nil {
		return nil, err
	}
	// Everybody may pass: there is a test of a user without rights.
	if err := os.Chmod(s.Dir, 0o755); err != nil {
		return nil, err
	}
	for _, d := range []string{"tmp", "home"} {
		if err := os.Mkdir(filepath.Join(s.Dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	s.Base = filepath.Join(s.Dir, "base")
	if err := s.makeBase(); err != nil {
		return nil, fmt.Errorf("make the root file system: %w", err)
	}
	return s, nil
}

// isolate finishes the namespaces: nothing gets out, everything inside is
// shared as it is on a host with systemd (so that a mount that leaks out of a
// namespace of the runtime's is seen), and /proc, /run and /dev/shm are our
// own.
func isolate() error {
	type mount struct {
		source, target, kind string
		flags                uintptr
	}
	for _, m := range []mount{
		{"", "/", "", unix.MS_REC | unix.MS_PRIVATE},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"tmpfs", "/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV},
		{"tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV}, // podman's locks
		{"", "/", "", unix.MS_REC | unix.MS_SHARED},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", m.kind, m.target, err)
		}
	}
	if err := os.Chmod("/run", 0o755); err != nil {
		return err
	}
	return os.Mkdir("/run/lock", 0o1777)
}

// locate finds the runtime and the guest image.
func (s *Suite) locate() error {
	root, err := ModuleRoot()
	if err != nil {
		return err
	}
	s.Runtime, s.Guest = os.Getenv("VC_RUNTIME"), os.Getenv("VC_GUEST_DIR")
	if s.Runtime == "" {
		s.Runtime = filepath.Join(root, "bin", "vc-runtime")
	}
	if s.Guest == "" {
		s.Guest = filepath.Join(root, "build", "guest")
	}
	if st, err := os.Stat(s.Runtime); err != nil || st.Mode()&0o111 == 0 {
		return fmt.Errorf("no runtime to test at %s: run `make build`, or set VC_RUNTIME", s.Runtime)
	}
	if !s.IsVM() {
		return nil
	}
	if entries, err := os.ReadDir(s.Guest); err != nil || len(entries) == 0 {
		return fmt.Errorf("no guest image in %s: run `make guest`, or set VC_GUEST_DIR", s.Guest)
	}
	return nil
}

// IsVM reports whether the runtime under test is vc-runtime.
func (s *Suite) IsVM() bool { return filepath.Base(s.Runtime) == "vc-runtime" }

// Beside is the suite with another runtime, to compare with. Its ids are other
// ones: the cgroups of both are in one tree.
func (s *Suite) Beside(runtime string) *Suite {
	return &Suite{
		Runtime: runtime, Guest: s.Guest, Dir: s.Dir, Base: s.Base, Ignore: s.Ignore, reaper: s.reaper,
		Prefix: s.Prefix + "-" + filepath.Base(runtime),
	}
}

// ModuleRoot is the folder with go.mod above the working directory, which go
// test sets to the package's.
func ModuleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", fmt.Errorf("no go.mod above %s", dir)
}

// id gives an id that no other container has.
func (s *Suite) id(name string) string {
	return fmt.Sprintf("%s-%s-%d", s.Prefix, name, s.serial.Add(1))
}

// removeTree removes a folder, unless something is still mounted in it: what
// a leaked mount leads to is not ours to remove.
func removeTree(dir string) error {
	mounts, err := mountPoints()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if strings.HasPrefix(m, dir+"/") {
			return fmt.Errorf("%s is not removed: %s is still mounted", dir, m)
		}
	}
	return os.RemoveAll(dir)
}

// Eventually polls cond, of which there is no event to wait for, until it
// gives no error, and fails the test with the last one after limit.
func Eventually(t testing.TB, limit time.Duration, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := cond()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s: %v", limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Number is the number in an environment variable: how much of something somebody asks
// for, where `make test` has few.
func Number(t testing.TB, name string, few int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%q: expected a number from 1", name, text)
	}
	return n
}
