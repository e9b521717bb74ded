package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/lifecycle"
)

func sample(t *testing.T) *Container {
	t.Helper()
	self, err := Self()
	must(t, err)
	return &Container{
		ID: "c1", Sandbox: "p1", Bundle: "/b", Rootfs: "/b/rootfs", OCIVersion: "1.2.0", Owner: "root",
		Annotations: map[string]string{"k": "v <é>"}, Status: lifecycle.Running,
		Creator: self, Shim: self, Created: time.Now().UTC().Round(0),
		Terminal: true, SystemdCgroup: true, CgroupsPath: "a:b:c",
		Process: json.RawMessage(`{"args":["sh"],"future":[1,{"a":null}]}`),
	}
}

// The texts that callers match. podman (ErrorConmonOCIFailed, delete) and
// containerd's shim (getStatus, delete) look for "does not exist"; the
// others are in runc's integration tests.
func TestTexts(t *testing.T) {
	for err, want := range map[error]string{
		ErrNotExist:  "container does not exist",
		ErrExist:     "container with given ID already exists",
		ErrInvalidID: "invalid container ID format",
	} {
		if err.Error() != want {
			t.Errorf("%q, want %q", err, want)
		}
	}
	if _, err := openStore(t).Container("c1"); err == nil || err.Error() != "container does not exist" {
		t.Errorf("unknown container: %v", err)
	}
}

func TestValidateID(t *testing.T) {
	for _, id := range []string{"a", "A-b_c+d.e", "...", ".a", "-", "0", strings.Repeat("a", MaxIDLength)} {
		if err := ValidateID(id); err != nil {
			t.Errorf("%q: %v", id, err)
		}
	}
	for _, id := range []string{"", ".", "..", "a/b", "/", "../x", "a b", "a\x00", "a\n", "é", "a:b", "a@b", "$a",
		strings.Repeat("a", MaxIDLength+1)} {
		if err := ValidateID(id); !errors.Is(err, ErrInvalidID) {
			t.Errorf("%q: %v, want ErrInvalidID", id, err)
		}
	}
}

func TestOpen(t *testing.T) {
	t.Chdir(t.TempDir())
	s, err := Open("a/../b")
	must(t, err)
	wd, err := os.Getwd()
	must(t, err)
	if want := filepath.Join(wd, "b"); s.Root() != want {
		t.Errorf("root %s, want %s", s.Root(), want)
	}
	if _, err := Open(""); err == nil {
		t.Error("no root was accepted")
	}
}

func TestContainerRoundTrip(t *testing.T) {
	s := openStore(t)
	want := sample(t)
	must(t, s.SaveContainer(want))
	if want.Version != 0 || want.BootID != "" {
		t.Error("SaveContainer changed its argument")
	}
	got, err := s.Container("c1")
	must(t, err)
	want.Version = containerVersion
	if want.BootID, err = BootID(); err != nil {
		t.Fatal(err)
	}
	compact := func(m json.RawMessage) string { // the record is indented
		var v any
		must(t, json.Unmarshal(m, &v))
		b, err := json.Marshal(v)
		must(t, err)
		return string(b)
	}
	if compact(got.Process) != compact(want.Process) {
		t.Errorf("process %s", got.Process)
	}
	got.Process = want.Process
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for path, mode := range map[string]os.FileMode{
		s.Root():                               0o700,
		s.path(containersDir):                  0o700,
		s.path(containersDir, "c1"):            0o700,
		s.path(containersDir, "c1/state.json"): 0o600,
	} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
}

// Start times count from boot: those of an earlier boot can fit a stranger.
func TestContainerOfEarlierBoot(t *testing.T) {
	s := openStore(t)
	c := sample(t)
	c.BootID = "earlier"
	must(t, s.SaveContainer(c))
	got, err := s.Container("c1")
	must(t, err)
	if got.Shim.Alive() || got.Creator.Alive() {
		t.Error("processes of an earlier boot live")
	}
}

// Asking about what is not there leaves nothing behind.
func TestReadingMakesNothing(t *testing.T) {
	s := openStore(t)
	s.Container("c1")
	s.Sandbox("c1")
	s.SandboxHeld("c1")
	entries, err := s.Containers()
	if err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
	must(t, s.RemoveContainer("c1"))
	if _, err := os.Lstat(s.Root()); !os.IsNotExist(err) {
		t.Errorf("the root was made: %v", err)
	}
}

func TestSaveContainerRefuses(t *testing.T) {
	s := openStore(t)
	for name, change := range map[string]func(*Container){
		"id":             func(c *Container) { c.ID = "../c1" },
		"sandbox":        func(c *Container) { c.Sandbox = "a/b" },
		"stopped":        func(c *Container) { c.Status = lifecycle.Stopped },
		"unknown status": func(c *Container) { c.Status = "odd" },
		"process":        func(c *Container) { c.Process = json.RawMessage("{") },
	} {
		c := sample(t)
		change(c)
		if err := s.SaveContainer(c); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
	if ids, err := s.names(containersDir); err != nil || len(ids) != 0 {
		t.Errorf("left behind: %v, %v", ids, err)
	}
}

// A record that was cut off anywhere is damaged, or whole.
func TestContainerTruncated(t *testing.T) {
	s := openStore(t)
	must(t, s.SaveContainer(sample(t)))
	path := s.path(containersDir, "c1", containerRecord)
	whole, err := os.ReadFile(path)
	must(t, err)
	for n := range len(whole) {
		must(t, os.WriteFile(path, whole[:n], 0o600))
		_, err := s.Container("c1")
		if n == len(whole)-1 { // only the final newline is missing
			must(t, err)
			continue
		}
		if !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
			t.Fatalf("%d bytes: %v, want ErrCorrupt and the file's name", n, err)
		}
	}
	must(t, s.SaveContainer(sample(t))) // is repaired by writing
	_, err = s.Container("c1")
	must(t, err)
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, s.RemoveContainer("c1")) // or removed
}

func TestContainerDamaged(t *testing.T) {
	valid := `"id":"c1","sandbox":"c1","status":"running"`
	for name, c := range map[string]struct {
		body string
		want error
	}{
		"minimal":        {`{"version":1,` + valid + `}`, nil},
		"no version":     {`{` + valid + `}`, ErrCorrupt},
		"version 0":      {`{"version":0,` + valid + `}`, ErrCorrupt},
		"future":         {`{"version":2,"new":true}`, ErrFutureVersion},
		"far future":     {`{"version":99,"id":["c1"]}`, ErrFutureVersion},
		"unknown field":  {`{"version":1,"new":true,` + valid + `}`, ErrCorrupt},
		"other id":       {`{"version":1,"id":"c2","sandbox":"c1","status":"running"}`, ErrCorrupt},
		"evil sandbox":   {`{"version":1,"id":"c1","sandbox":"../x","status":"running"}`, ErrCorrupt},
		"no sandbox":     {`{"version":1,"id":"c1","status":"running"}`, ErrCorrupt},
		"stopped":        {`{"version":1,"id":"c1","sandbox":"c1","status":"stopped"}`, ErrCorrupt},
		"no status":      {`{"version":1,"id":"c1","sandbox":"c1"}`, ErrCorrupt},
		"wrong type":     {`{"version":1,"shim":7,` + valid + `}`, ErrCorrupt},
		"array":          {`[]`, ErrCorrupt},
		"null":           {`null`, ErrCorrupt},
		"zeros":          {strings.Repeat("\x00", 512), ErrCorrupt},
		"trailing":       {`{"version":1,` + valid + `}{}`, ErrCorrupt},
		"deep":           {strings.Repeat("[", 100_000), ErrCorrupt},
		"huge":           {`{"version":1,` + valid + `}` + strings.Repeat(" ", maxRecord), ErrCorrupt},
		"version a text": {`{"version":"1",` + valid + `}`, ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t)
			path := s.path(containersDir, "c1", containerRecord)
			must(t, os.MkdirAll(filepath.Dir(path), 0o700))
			must(t, os.WriteFile(path, []byte(c.body), 0o600))
			_, err := s.Container("c1")
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
}

func TestContainerOddFiles(t *testing.T) {
	s := openStore(t)
	path := s.path(containersDir, "c1", containerRecord)
	must(t, os.MkdirAll(filepath.Dir(path), 0o700))
	must(t, unix.Mkfifo(path, 0o600))
	if _, err := s.Container("c1"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a FIFO: %v, want ErrCorrupt", err)
	}
	must(t, os.Remove(path))
	must(t, os.Symlink("/etc/passwd", path))
	if _, err := s.Container("c1"); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a symlink: %v, want ErrCorrupt", err)
	}
	must(t, os.Remove(path))
	if _, err := s.Container("c1"); !errors.Is(err, ErrNotExist) {
		t.Errorf("an empty folder: %v, want ErrNotExist", err)
	}
	must(t, os.Remove(filepath.Dir(path)))
	must(t, os.Symlink(t.TempDir(), filepath.Dir(path)))
	if err := s.SaveContainer(sample(t)); err == nil {
		t.Error("saved through a symlink")
	}
}

func TestContainers(t *testing.T) {
	s := openStore(t)
	for _, id := range []string{"b", "a", "bad", "future"} {
		c := sample(t)
		c.ID = id
		must(t, s.SaveContainer(c))
	}
	must(t, os.WriteFile(s.path(containersDir, "bad", containerRecord), []byte("{"), 0o600))
	must(t, os.WriteFile(s.path(containersDir, "future", containerRecord), []byte(`{"version":9}`), 0o600))
	must(t, os.Mkdir(s.path(containersDir, "unfinished"), 0o700))
	must(t, os.Mkdir(s.path(containersDir, "not an id"), 0o700))
	must(t, os.WriteFile(s.path(containersDir, "file"), nil, 0o600))
	must(t, os.Symlink("a", s.path(containersDir, "link")))
	entries, err := s.Containers()
	must(t, err)
	var got []string
	for _, e := range entries {
		switch {
		case e.Err == nil && e.Container.ID == e.ID:
			got = append(got, e.ID)
		case errors.Is(e.Err, ErrCorrupt) && e.Container == nil:
			got = append(got, e.ID+" damaged")
		case errors.Is(e.Err, ErrFutureVersion) && e.Container == nil:
			got = append(got, e.ID+" later")
		default:
			t.Errorf("%+v", e)
		}
	}
	if diff := cmp.Diff([]string{"a", "b", "bad damaged", "future later"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestRemoveContainer(t *testing.T) {
	s := openStore(t)
	must(t, s.SaveContainer(sample(t)))
	dir := s.path(containersDir, "c1")
	must(t, os.WriteFile(filepath.Join(dir, "state.json.x1.tmp"), nil, 0o600)) // a writer was killed
	keep := filepath.Join(t.TempDir(), "keep")
	must(t, os.WriteFile(keep, nil, 0o600))
	must(t, os.Symlink(keep, filepath.Join(dir, "z.link")))
	must(t, os.Mkdir(filepath.Join(dir, "a.dir"), 0o700))
	err := s.RemoveContainer("c1")
	if err == nil || !strings.Contains(err.Error(), dir+": not made by vc-runtime: a.dir, z.link") {
		t.Fatalf("%v, want the foreign files' names", err)
	}
	if _, err := s.Container("c1"); err != nil {
		t.Errorf("the record did not stay: %v", err)
	}
	must(t, errors.Join(os.Remove(filepath.Join(dir, "z.link")), os.Remove(filepath.Join(dir, "a.dir"))))
	must(t, s.RemoveContainer("c1"))
	must(t, s.RemoveContainer("c1"))
	wantEmpty(t, s.path(containersDir))
	if err := s.RemoveContainer(".."); !errors.Is(err, ErrInvalidID) {
		t.Errorf("%v, want ErrInvalidID", err)
	}
}

// A folder that is a symlink is not followed.
func TestRemoveContainerSymlink(t *testing.T) {
	s := openStore(t)
	must(t, os.MkdirAll(s.path(containersDir), 0o700))
	elsewhere := t.TempDir()
	victim := filepath.Join(elsewhere, containerRecord)
	must(t, os.WriteFile(victim, nil, 0o600))
	must(t, os.Symlink(elsewhere, s.path(containersDir, "c1")))
	if err := s.RemoveContainer("c1"); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(victim); err != nil {
		t.Errorf("followed the symlink: %v", err)
	}
}

// Readers see the old record or the new one while it is replaced.
func TestSaveContainerIsAtomic(t *testing.T) {
	s := openStore(t)
	c := sample(t)
	must(t, s.SaveContainer(c))
	done := make(chan error, 1)
	go func() {
		for i := range 100 {
			c.Annotations = map[string]string{"fill": strings.Repeat("x", i*500)}
			if err := s.SaveContainer(c); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for {
		select {
		case err := <-done:
			must(t, err)
			return
		default:
			if _, err := s.Container("c1"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// playFullDisk runs in a mount namespace of its own. It mounts a small file
// system at args[0] and fills it.
func playFullDisk(args []string) int {
	if err := fullDisk(args[0]); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("done")
	return 0
}

func fullDisk(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	s, err := Open(dir)
	if err != nil {
		return err
	}
	c := &Container{ID: "c1", Sandbox: "c1", Status: lifecycle.Creating}
	if err := s.SaveContainer(c); err != nil {
		return err
	}
	c.Status = lifecycle.Created
	c.Annotations = map[string]string{"fill": strings.Repeat("x", 128<<10)}
	if err := s.SaveContainer(c); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("replace a record: %v, want ENOSPC", err)
	}
	if got, err := s.Container("c1"); err != nil || got.Status != lifecycle.Creating {
		return fmt.Errorf("the old record: %v, %v", got, err)
	}
	c.ID = "c2"
	if err := s.SaveContainer(c); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("write a new record: %v, want ENOSPC", err)
	}
	files, err := filepath.Glob(dir + "/containers/*/*")
	if err != nil || len(files) != 1 {
		return fmt.Errorf("files: %v, %v", files, err)
	}
	if _, err := os.Lstat(dir + "/containers/c2"); !os.IsNotExist(err) {
		return fmt.Errorf("the new container's folder was left: %v", err)
	}
	if err := lockWithoutRoom(s, dir); err != nil {
		return err
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if _, err := s.Container("c1"); err != nil {
		return fmt.Errorf("read from a read-only file system: %w", err)
	}
	if err := s.SaveContainer(c); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("write to a read-only file system: %v, want EROFS", err)
	}
	return nil
}

// lockWithoutRoom takes a lock, one after another, where there is room for no
// more files.
func lockWithoutRoom(s *Store, dir string) error {
	l, err := s.Begin(context.Background(), "c1", lifecycle.OpCreate) // which makes the folder
	if err == nil {
		err = l.End()
	}
	var n int
	for err == nil {
		n++
		err = os.WriteFile(fmt.Sprintf("%s/%d", dir, n), nil, 0o600)
		if n == 1 && err == nil {
			err = unix.Mount("", dir, "", unix.MS_REMOUNT, "nr_inodes=12")
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("fill the file system: %w", err)
	}
	for range 2 {
		l, err := s.Begin(context.Background(), "c1", lifecycle.OpCreate)
		if err != nil {
			return fmt.Errorf("lock without room: %w", err)
		}
		if err := l.End(); err != nil {
			return err
		}
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to mount a small file system")
	}
	c := startChild(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}, "full-disk", t.TempDir())
	if got := c.line(t); got != "done" {
		t.Error(got)
	}
}

func FuzzContainerRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"c1","sandbox":"p1","status":"running","shim":{"pid":1,"startTime":2}}`))
	f.Add([]byte(`{"version":1,"id":"c1","sandbox":"../..","status":"running"}`))
	f.Add([]byte(`{"version":2}`))
	f.Add([]byte(`{"version":1,"id":"c1","sandbox":"p1","status":"paused","process":{"a":[1]},"created":"2024-02-30T00:00:00Z"}`))
	f.Add([]byte(""))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, body []byte) {
		var c Container
		err := decodeRecord(body, containerVersion, &c)
		if err != nil || c.check("c1") != nil {
			return
		}
		again, err := json.Marshal(&c)
		if err != nil {
			t.Fatalf("a record that was read cannot be written: %v", err)
		}
		if err := decodeRecord(again, containerVersion, &Container{}); err != nil {
			t.Fatalf("nor read again: %v", err)
		}
	})
}
