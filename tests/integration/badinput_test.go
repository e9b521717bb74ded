package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// createFails runs create, which must fail with the text in one line, quickly
// where no VM is needed to see it, and leave nothing behind.
func createFails(e *testenv.Env, b *testenv.Bundle, text string) *testenv.Result {
	e.Helper()
	c, res := e.TryCreate(b, nil)
	if res.Code == 0 {
		e.Fatalf("create has succeeded: %s", res)
	}
	e.FailedWith(res, 1, text)
	if _, err := os.Stat(filepath.Join(b.Dir, "pid")); err == nil {
		e.Error("a failed create has written a pid-file")
	}
	e.Fails("does not exist", "state", c.ID)
	if b.Overlay != nil {
		if err := b.Overlay.Cycle(); err != nil {
			e.Error(err)
		}
	}
	return res
}

// TestBadBundle has bundles that are refused before anything is made.
func TestBadBundle(t *testing.T) {
	for _, tt := range []struct {
		name   string
		text   string
		change func(*specs.Spec)
	}{
		{"no process", "process property must not be empty", func(s *specs.Spec) { s.Process = nil }},
		{"no args", "args must not be empty", func(s *specs.Spec) { s.Process.Args = nil }},
		{"relative cwd", "Cwd must be an absolute path", func(s *specs.Spec) { s.Process.Cwd = "here" }},
		{"no rootfs", "", func(s *specs.Spec) { s.Root.Path = "nonesuch" }},
		{"no bind source", "/nonesuch", testenv.Bind("/nonesuch", "/x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			b := e.Bundle(tt.change)
			id := e.ID()
			e.Fails(tt.text, "create", "--bundle", b.Dir, "--pid-file", e.Path("pid"), id)
			e.Fails("does not exist", "state", id)
		})
	}
	t.Run("no config.json", func(t *testing.T) {
		e := suite.New(t)
		e.Fails("JSON specification file config.json not found", "create", "--bundle", e.Dir, e.ID())
	})
	t.Run("no bundle", func(t *testing.T) {
		e := suite.New(t)
		e.Fails("no such file or directory", "create", "--bundle", e.Path("nonesuch"), e.ID())
	})
	t.Run("broken config.json", func(t *testing.T) {
		e := suite.New(t)
		e.Write("config.json", `{"ociVersion": "1.0.2", "process": {`)
		e.Fails("", "create", "--bundle", e.Dir, e.ID())
	})
}

// TestBadID has ids that name no container, and those that are none.
func TestBadID(t *testing.T) {
	e := suite.New(t)
	b := e.Bundle()
	for _, id := range []string{"../x", "a/b", ".", "..", "a b"} {
		e.Fails("invalid container ID format", "create", "--bundle", b.Dir, id)
	}
	e.Fails("", "create", "--bundle", b.Dir, "")
	for _, verb := range []string{"state", "start", "kill", "delete", "pause", "resume", "ps"} {
		e.Fails("does not exist", verb, "nonesuch")
		if res := e.Do(verb); res.Code != 1 || !strings.Contains(res.Stderr, "argument") {
			t.Errorf("without an id: %s", res)
		}
	}
	e.OK("delete", "--force", "nonesuch")
	if res := e.Do("nonesuch-verb"); res.Code == 0 {
		t.Error(res)
	}
	if res := e.Do("state", "--nonesuch-flag", "x"); res.Code == 0 {
		t.Error(res)
	}
}

// TestBadExecutable fails at create, with what podman looks for in the text.
func TestBadExecutable(t *testing.T) {
	for _, tt := range []struct{ name, arg, text string }{
		{"missing", "nonesuch", `exec: "nonesuch": executable file not found in $PATH`},
		{"missing path", "/bin/nonesuch", "no such file or directory"},
		{"not executable", "/etc/passwd", "permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM() // runc 1.1 finds most of this at start
			createFails(e, e.Bundle(testenv.Args(tt.arg)), tt.text)
		})
	}
}

// TestBadMachine has machines that cannot run a VM.
func TestBadMachine(t *testing.T) {
	q := func(s string) string { return fmt.Sprintf("%q", s) }
	for _, tt := range []struct {
		name string
		text string
		over func(*testenv.Env) testenv.Settings
	}{
		{"no QEMU", "/nonesuch/qemu", func(*testenv.Env) testenv.Settings {
			return testenv.Settings{"hypervisor.qemu": q("/nonesuch/qemu")}
		}},
		{"no file server", "/nonesuch/virtiofsd", func(*testenv.Env) testenv.Settings {
			return testenv.Settings{"share.virtiofsd": q("/nonesuch/virtiofsd")}
		}},
		{"no guest image", "nonesuch", func(e *testenv.Env) testenv.Settings {
			return testenv.Settings{"hypervisor.guest_image": q(e.Path("nonesuch"))}
		}},
		{"damaged guest image", "manifest", func(e *testenv.Env) testenv.Settings {
			return testenv.Settings{"hypervisor.guest_image": q(damagedImage(e))}
		}},
		{"no KVM", "kvm", func(*testenv.Env) testenv.Settings {
			return testenv.Settings{"hypervisor.accel": q("kvm")}
		}},
		{"unknown accelerator", "accel", func(*testenv.Env) testenv.Settings {
			return testenv.Settings{"hypervisor.accel": q("nonesuch")}
		}},
		{"unknown setting", "nonesuch", func(*testenv.Env) testenv.Settings {
			return testenv.Settings{"runtime.nonesuch": "1"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := suite.New(t)
			e.NeedVM()
			if tt.name == "no KVM" {
				hideKVM(e)
			}
			bad := e.Configured(tt.over(e))
			b := bad.Bundle()
			c, res := bad.TryCreate(b, nil)
			e.FailedWith(res, 1, tt.text)
			e.Fails("does not exist", "state", c.ID) // with a good configuration
			if err := b.Overlay.Cycle(); err != nil {
				t.Error(err)
			}
		})
	}
}

// damagedImage copies the guest image's folder and cuts its manifest in two.
func damagedImage(e *testenv.Env) string {
	e.Helper()
	dir := e.Path("image")
	if err := os.CopyFS(dir, os.DirFS(e.Guest)); err != nil {
		e.Fatal(err)
	}
	manifests, err := filepath.Glob(filepath.Join(dir, "*manifest*"))
	if err != nil || len(manifests) != 1 {
		e.Fatalf("no manifest in %s: %v", dir, err)
	}
	st, err := os.Stat(manifests[0])
	if err == nil {
		err = os.Truncate(manifests[0], st.Size()/2)
	}
	if err != nil {
		e.Fatal(err)
	}
	return dir
}

// hideKVM puts /dev/null over /dev/kvm, which then opens and is no KVM.
func hideKVM(e *testenv.Env) {
	e.Helper()
	if _, err := os.Stat("/dev/kvm"); err != nil {
		return // there is none to hide
	}
	if err := unix.Mount("/dev/null", "/dev/kvm", "", unix.MS_BIND, ""); err != nil {
		e.Fatal(err)
	}
	e.Cleanup(func() {
		if err := unix.Unmount("/dev/kvm", 0); err != nil {
			e.Error(err)
		}
	})
}

// TestNotRoot runs as a user without rights, in a state folder of his own.
func TestNotRoot(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	b := e.Bundle()
	if err := os.Mkdir(e.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(e.Root, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	program, err := os.Open(e.Runtime) // it may lie below /root, where others find nothing
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	res := e.Run(e, testenv.Command{
		Path: "/proc/self/fd/3", Files: []*os.File{program},
		Args: append(e.Globals(), "create", "--bundle", b.Dir, e.ID()),
		Sys:  &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	})
	e.FailedWith(res, 1, "root")
}

// TestFullDisk has no room for the state.
func TestFullDisk(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	b := e.Bundle()
	if err := os.Mkdir(e.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", e.Root, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(e.Root, 0); err != nil {
			t.Error(err)
		}
	})
	// Empty files still fit.
	if err := os.WriteFile(filepath.Join(e.Root, "ballast"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the tmpfs takes a megabyte")
	}
	createFails(e, b, "no space left on device")
}

// TestHostNetwork is what a VM cannot give.
func TestHostNetwork(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	createFails(e, e.Bundle(func(s *specs.Spec) {
		var kept []specs.LinuxNamespace
		for _, ns := range s.Linux.Namespaces {
			if ns.Type != specs.NetworkNamespace {
				kept = append(kept, ns)
			}
		}
		s.Linux.Namespaces = kept
	}), "host's network")
}

// TestJournalLog has the journal at stderr, as far as a program can tell: the file
// that JOURNAL_STREAM names (systemd.exec(5)). A variable that names another one,
// which engines hand on, means nothing.
func TestJournalLog(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	for _, tt := range []struct {
		stream string
		more   uint64
		want   string
	}{
		{"stderr's", 0, "<3>level=error msg=\"container does not exist\"\n"}, {"another", 1, "time="},
	} {
		out := e.Write("stderr", "")
		var st unix.Stat_t
		if err := unix.Stat(out, &st); err != nil {
			t.Fatal(err)
		}
		res := e.Run(t, testenv.Command{
			Path: e.Runtime, Args: []string{"--root", e.Root, "state", "nonesuch"}, Output: out,
			Env: []string{fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino+tt.more)},
		})
		if got := e.Read(out); res.Code != 1 || !strings.HasPrefix(got, tt.want) || strings.Count(got, "\n") != 1 {
			t.Errorf("%s: exit code %d, %q", tt.stream, res.Code, got)
		}
	}
}

// TestJSONLog is what podman and containerd read: one object in one line.
func TestJSONLog(t *testing.T) {
	e := suite.New(t)
	log := e.Path("log.json")
	res := e.Run(t, testenv.Command{
		Path: e.Runtime, Args: []string{"--root", e.Root, "--log", log, "--log-format", "json", "state", "nonesuch"},
	})
	if res.Code != 1 || !strings.Contains(res.Stderr, "does not exist") {
		t.Error(res)
	}
	got := e.Read(log)
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, `"level":"error"`) || !strings.Contains(got, "does not exist") {
		t.Errorf("log: %s", got)
	}
}
