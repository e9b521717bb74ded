package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// orphan is what doctor prints.
type orphan struct {
	Kind, Name, Owner, Why, Error string
	Fixed                         bool
}

// doctor gives what is found, and checks that the exit code says so.
func (w *world) doctor(args ...string) []orphan {
	w.Helper()
	res := w.Do(append([]string{"doctor", "--json"}, args...)...)
	var found []orphan
	if err := json.Unmarshal([]byte(res.Stdout), &found); err != nil {
		w.Fatalf("%v: %s", err, res)
	}
	left := slices.ContainsFunc(found, func(o orphan) bool { return !o.Fixed })
	if (res.Code == 1) != left || res.Code > 1 {
		w.Errorf("the exit code does not fit: %s", res)
	}
	return found
}

// TestDoctor plants an orphan of each kind beside containers that live.
func TestDoctor(t *testing.T) {
	w := newWorld(t)
	w.NeedVM()
	neighbour := w.Started(nil)
	created := w.Container(nil)
	if found := w.doctor(); len(found) != 0 {
		t.Errorf("among the living: %v", found)
	}

	want := map[string]string{}
	for kind, plant := range map[string]func(*world) string{
		"VM": plantVM, "file server": plantServer, "shim": plantShim, "monitor": plantMonitor, "mount": plantMount,
		"tap": plantTap, "cgroup": plantCgroup, "record": plantRecord, "folder": plantFolder, "operation": plantOperation, "lock": plantLock,
	} {
		want[kind] = plant(w)
	}
	owners := map[string][]string{}
	for _, o := range w.doctor() {
		owners[o.Kind] = append(owners[o.Kind], o.Owner)
		if o.Fixed {
			t.Errorf("unasked: %v", o)
		}
	}
	for kind, owner := range want {
		if !slices.Contains(owners[kind], owner) {
			t.Errorf("%s of %q is not found: %v", kind, owner, owners)
		}
	}
	for _, o := range w.doctor("--fix") {
		if !o.Fixed {
			t.Errorf("not repaired: %v", o)
		}
	}
	if found := w.doctor(); len(found) != 0 {
		t.Errorf("after the repair: %v", found)
	}

	w.IsStatus(neighbour.ID, "running")
	w.OK("exec", neighbour.ID, "true")
	created.Start()
	w.IsStatus(created.ID, "running")

	// A record of a later version is nobody's to repair.
	id := w.ID()
	path := w.plant("containers", id, "state.json", `{"version": 99}`)
	if found := w.doctor("--fix"); len(found) != 1 || found[0].Kind != "record" || found[0].Fixed {
		t.Errorf("a record of a later version: %v", found)
	}
	if err := os.RemoveAll(filepath.Dir(path)); err != nil {
		t.Fatal(err)
	}
}

// TestDoctorDuringCreate has doctor come while a create is on its way, and not even
// all of it is recorded.
func TestDoctorDuringCreate(t *testing.T) {
	warm(t)
	for i, point := range []failpoint.Name{
		failpoint.CreateRecordSandbox, failpoint.CreateBriefMonitor, failpoint.CreateBriefShim, failpoint.MonitorRecordVM,
		failpoint.ShimCreate, failpoint.CreateClaim,
	} {
		if !everything() && i%2 != 0 {
			continue
		}
		w := newWorld(t)
		b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
		res := w.held(point, []string{"create", "--bundle", b.Dir, id}, func() {
			if found := w.doctor("--fix"); len(found) != 0 {
				t.Errorf("%s: %v", point, found)
			}
		})
		if res.Code != 0 {
			t.Errorf("%s: %s", point, res)
		}
		w.OK("start", id)
		w.OK("delete", "--force", id)
	}
}

// plant writes a file below the root.
func (w *world) plant(kind, id, name, text string) string {
	w.Helper()
	dir := filepath.Join(w.Root, kind, id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.Fatal(err)
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

// launch starts a program that doctor is to end.
func (w *world) launch(path string, args ...string) {
	w.Helper()
	started := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := suite.Exec(testenv.Command{
			Path: path, Args: args, Null: true, Env: []string{"PATH=/usr/bin:/bin"},
			Started: func(int) { close(started) },
		})
		done <- err
	}()
	<-started
	w.Cleanup(func() {
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

func plantVM(w *world) string {
	id := w.ID()
	w.launch(testenv.Tool(w, "qemu-system-x86_64"), "-S", "-M", "q35", "-nodefaults", "-display", "none", "-name", "guest="+filepath.Join(w.Root, id),
		"-chardev", "null,id=c", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=c,name=vc.agent")
	return id
}

// plantServer is a program by the name, and with an argument, of a file server.
func plantServer(w *world) string {
	id := w.ID()
	shell, err := os.ReadFile(testenv.Tool(w, "dash"))
	if err != nil {
		w.Fatal(err)
	}
	path := w.Path("virtiofsd")
	if err := os.WriteFile(path, shell, 0o755); err != nil {
		w.Fatal(err)
	}
	w.launch(path, "-c", "kill -STOP $$", "x", "source="+filepath.Join(w.Root, "sandboxes", id))
	return id
}

// plantShim is one that was stopped when its monitor died.
func plantShim(w *world) string {
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	pid := w.Path(id + ".pid")
	if res := w.call("create", "--bundle", b.Dir, "--pid-file", pid, id); res.Code != 0 {
		w.Fatal(res)
	}
	var shim int
	fmt.Sscan(w.Read(pid), &shim)
	w.Signal(shim, unix.SIGSTOP)
	w.Signal(w.SandboxPids(id).Monitor, unix.SIGKILL)
	w.Cleanup(func() { w.OK("delete", "--force", id) })
	testenv.Eventually(w, limit, func() error {
		if testenv.Alive(w.SandboxPids(id).Monitor) {
			return fmt.Errorf("the monitor lives")
		}
		return nil
	})
	return id
}

// plantMonitor is one whose record somebody has removed.
func plantMonitor(w *world) string {
	b, id := w.Bundle(testenv.Args("sleep", "1000")), w.ID()
	if res := w.call("create", "--bundle", b.Dir, id); res.Code != 0 {
		w.Fatal(res)
	}
	for _, kind := range []string{"containers", "sandboxes"} {
		if err := os.RemoveAll(filepath.Join(w.Root, kind, id)); err != nil {
			w.Fatal(err)
		}
	}
	return id
}

func plantMount(w *world) string {
	id := w.ID()
	dir := filepath.Dir(w.plant("sandboxes", id, "monitor.log", ""))
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		w.Fatal(err)
	}
	return id
}

func plantTap(w *world) string {
	res := suite.Run(w, testenv.Command{Path: testenv.Tool(w, "ip"), Args: []string{"tuntap", "add", "vctap77", "mode", "tap"}})
	if res.Code != 0 {
		w.Fatal(res)
	}
	return ""
}

func plantCgroup(w *world) string {
	id := w.ID()
	for _, hierarchy := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		dir := filepath.Join(hierarchy, id)
		if err := os.Mkdir(dir, 0o755); err != nil {
			continue
		}
		if err := unix.Setxattr(dir, "trusted.vc-runtime", []byte(filepath.Join(w.Root, id)), 0); err != nil {
			w.Fatal(err)
		}
		return id
	}
	w.Fatal("no place for a cgroup")
	return ""
}

func plantRecord(w *world) string {
	id := w.ID()
	w.plant("containers", id, "state.json", `{"version": 1, "id": "`)
	return id
}

func plantFolder(w *world) string {
	id := w.ID()
	w.plant("sandboxes", id, "monitor.log", "")
	return id
}

func plantOperation(w *world) string { return w.plantFile("operations") }

func plantLock(w *world) string { return w.plantFile("sandbox-locks") }

// plantFile is what an operation, or the holder of a lock, leaves that is killed.
func (w *world) plantFile(kind string) string {
	id := w.ID()
	if err := os.WriteFile(filepath.Join(w.Root, kind, id), []byte("create 1 1\n"), 0o600); err != nil {
		w.Fatal(err)
	}
	return id
}
