package images

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/registrytest"
)

// disk is an ext4 on a loop device, whose power can be cut.
type disk struct {
	t    *testing.T
	file string
	dir  string
}

const diskSize = 32 << 20

// newDisk makes and mounts one. All are made of the same, empty one.
func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t, file: filepath.Join(memory(t), "disk"), dir: t.TempDir()}
	f, err := os.Create(d.file)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(diskSize), f.Close()); err != nil {
		t.Fatal(err)
	}
	d.run(tool(t, "mkfs.ext4"), "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", d.file)
	d.mount()
	t.Cleanup(d.umount)
	return d
}

func (d *disk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func (d *disk) mount() { d.t.Helper(); d.run("mount", "-o", "loop", d.file, d.dir) }

func (d *disk) umount() { d.t.Helper(); d.run("umount", d.dir) }

// ioctlShutdown ends all writing to a file system at once (FS_IOC_SHUTDOWN of
// linux/fs.h): what the journal has not got by then is lost.
const (
	ioctlShutdown = 0x8004587d
	noLogFlush    = 2
)

func (d *disk) cut() error {
	dir, err := os.Open(d.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.IoctlSetPointerInt(int(dir.Fd()), ioctlShutdown, noLogFlush)
}

// reboot is what comes after the cut: the journal is replayed.
func (d *disk) reboot() {
	d.t.Helper()
	d.umount()
	d.mount()
}

// The cut is worth something: a file that was renamed, and whose name was
// synced, but not its data, is empty after it.
func TestPowerCutLosesWhatIsNotSynced(t *testing.T) {
	d := newDisk(t)
	text := bytes.Repeat([]byte("x"), 100_000)
	for name, sync := range map[string]bool{"synced": true, "not": false} {
		f, err := os.Create(filepath.Join(d.dir, name+".tmp"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(text); err != nil {
			t.Fatal(err)
		}
		if sync {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(f.Close(), os.Rename(f.Name(), filepath.Join(d.dir, name))); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := os.Open(d.dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dir.Sync(), dir.Close(), d.cut()); err != nil {
		t.Fatal(err)
	}
	d.reboot()
	for name, want := range map[string]int{"synced": len(text), "not": 0} {
		if got, err := os.ReadFile(filepath.Join(d.dir, name)); err != nil || len(got) != want {
			t.Errorf("%s has %d bytes, want %d: %v", name, len(got), want, err)
		}
	}
}

// inMemory are steps that change nothing on the disk: a cut after one is the
// same as a cut before it.
var inMemory = []string{"meta.shared", "lock", "lease.check", "lease.lock"}

// After every step of a pull that changes the disk the power goes. With
// VC_IMAGES_ALL=1 before and after each.
func TestPowerCutAtEveryStep(t *testing.T) {
	r := registrytest.New(t)
	r.Add("x", "latest", sample(t))
	name := r.Host() + "/x:latest"
	var all []string
	d := newDisk(t)
	if _, _, err := pullInto(t.Context(), d.dir+"/store", name, record(&all)); err != nil {
		t.Fatal(err)
	}
	if len(all) < 80 || !slices.Contains(all, "image.fsync-dir:after") {
		t.Fatalf("steps %q", all)
	}
	for n, step := range all {
		what, after := strings.CutSuffix(step, ":after")
		if (!after || slices.Contains(inMemory, what)) && os.Getenv("VC_IMAGES_ALL") == "" {
			continue
		}
		d := newDisk(t)
		var mu sync.Mutex
		count, last := 0, ""
		_, _, err := pullInto(t.Context(), d.dir+"/store", name, func(step string) error {
			mu.Lock()
			defer mu.Unlock()
			if count++; count == n+1 {
				last = step
				return d.cut()
			}
			return nil
		})
		if last == "" {
			continue // with fewer steps this time
		}
		d.reboot()
		recovers(t, d.dir+"/store", name)
		if t.Failed() {
			t.Fatalf("power cut after step %d, %s (the pull: %v)", n, last, err)
		}
	}
}

func record(steps *[]string) func(string) error {
	var mu sync.Mutex
	return func(step string) error {
		mu.Lock()
		defer mu.Unlock()
		*steps = append(*steps, step)
		return nil
	}
}

// Once a pull has returned, its image outlasts a loss of power.
func TestPulledImageOutlastsAPowerCut(t *testing.T) {
	r := registrytest.New(t)
	r.Add("x", "latest", sample(t))
	name := r.Host() + "/x:latest"
	d := newDisk(t)
	s, img, err := pullInto(t.Context(), d.dir+"/store", name, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.cut(); err != nil {
		t.Fatal(err)
	}
	d.reboot()
	if _, err := s.Image(name); err != nil {
		t.Error(err)
	}
	r.Forget()
	_, again, err := pullInto(t.Context(), d.dir+"/store", name, nil)
	if err != nil || again.ID() != img.ID() {
		t.Fatalf("%+v, %v", again, err)
	}
	if gets := r.Gets(); len(gets) > 0 {
		t.Errorf("it was fetched again: %v", gets)
	}
	recovers(t, d.dir+"/store", name)
}
