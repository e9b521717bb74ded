package build

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

func sampleKernel() *kernel {
	return &kernel{
		Version: "6.1.0-1",
		Modules: guestimage.Modules{
			Boot:   []string{"kernel/virtio_pci.ko.xz"},
			Groups: map[guestimage.ModuleGroup][]string{guestimage.GroupOverlay: {"kernel/overlay.ko"}},
		},
		vmlinux: elfKernel,
		modules: map[string][]byte{"kernel/virtio_pci.ko.xz": []byte("pci"), "kernel/overlay.ko": []byte("ovl")},
	}
}

func TestAssembleIsReproducible(t *testing.T) {
	crun := &program{version: "1", binary: []byte("crun")}
	first, err := assemble([]byte("agent"), crun, sampleKernel())
	if err != nil {
		t.Fatal(err)
	}
	second, err := assemble([]byte("agent"), crun, sampleKernel())
	if err != nil {
		t.Fatal(err)
	}
	if first.id != second.id || !bytes.Equal(first.initrd, second.initrd) {
		t.Error("the same inputs give another image")
	}
	for _, part := range []string{
		"lib/vc/modules/virtio_pci.ko\x00",
		`"/lib/vc/modules/overlay.ko"`,
		`"imageId": "` + first.id + `"`,
	} {
		if !bytes.Contains(first.initrd, []byte(part)) {
			t.Errorf("initrd lacks %q", part)
		}
	}
}

// Each input shows in the id, the kernel too though it is not in the initrd.
func TestImageIDCoversInputs(t *testing.T) {
	ids := map[string]string{}
	add := func(what, agent, crun string, change func(*kernel)) {
		k := sampleKernel()
		change(k)
		img, err := assemble([]byte(agent), &program{binary: []byte(crun)}, k)
		if err != nil {
			t.Fatal(err)
		}
		if other, dup := ids[img.id]; dup {
			t.Errorf("%s has the id of %s", what, other)
		}
		ids[img.id] = what
	}
	same := func(*kernel) {}
	add("the first", "agent", "crun", same)
	add("another agent", "agenT", "crun", same)
	add("another crun", "agent", "cruN", same)
	add("another kernel", "agent", "crun", func(k *kernel) { k.vmlinux = append([]byte{}, "x"...) })
	add("another module", "agent", "crun", func(k *kernel) { k.modules["kernel/overlay.ko"] = []byte("x") })
}

func sampleManifest(initrd []byte) *guestimage.Manifest {
	return &guestimage.Manifest{
		Version:  guestimage.ManifestVersion,
		Protocol: api.ProtocolVersion,
		Kernel:   guestimage.Kernel{File: describe("vmlinux", elfKernel), Version: "1"},
		Initrd:   describe("initrd", initrd),
	}
}

func TestWriteIsLoaded(t *testing.T) {
	out := filepath.Join(t.TempDir(), "guest")
	for _, initrd := range []string{"one", "two", "two"} {
		if err := write(out, sampleManifest([]byte(initrd)), elfKernel, []byte(initrd)); err != nil {
			t.Fatal(err)
		}
		m, err := guestimage.Load(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Verify(); err != nil {
			t.Fatal(err)
		}
	}
	left, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 3 {
		t.Errorf("folder of the image holds %v, want three files", left)
	}
}

// A damaged file is written again even when the manifest says the same.
func TestWriteRepairs(t *testing.T) {
	out := t.TempDir()
	initrd := []byte("initrd")
	build := func() error { return write(out, sampleManifest(initrd), elfKernel, initrd) }
	if err := build(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(out, "initrd"), []byte("INITRD"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := build(); err != nil {
		t.Fatal(err)
	}
	m, err := guestimage.Load(out)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(); err != nil {
		t.Error(err)
	}
}

func TestKernelSurvivesTheCache(t *testing.T) {
	folder := t.TempDir()
	if err := sampleKernel().save(folder); err != nil {
		t.Fatal(err)
	}
	k, err := readKernel(folder)
	if err != nil {
		t.Fatal(err)
	}
	a, err := assemble(nil, &program{}, sampleKernel())
	if err != nil {
		t.Fatal(err)
	}
	b, err := assemble(nil, &program{}, k)
	if err != nil {
		t.Fatal(err)
	}
	if a.id != b.id || k.Version != "6.1.0-1" {
		t.Error("a kernel from the cache makes another image")
	}
}

func TestCacheMakesOnce(t *testing.T) {
	log := logrus.New()
	log.SetOutput(t.Output())
	c := &cache{dir: t.TempDir(), log: log}
	count := 0
	fill := func(tmp string) error {
		count++
		return os.WriteFile(filepath.Join(tmp, "x"), nil, 0o644)
	}
	first, err := c.made("thing", "1", fill)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.made("thing", "1", fill); err != nil || count != 1 {
		t.Errorf("filled %d times, want once (%v)", count, err)
	}
	boom := errors.New("boom")
	if _, err := c.made("thing", "2", func(string) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("made: %v, want boom", err)
	}
	if _, err := os.Stat(first); err != nil {
		t.Errorf("a failure removed the old one: %v", err)
	}
	if _, err := c.made("thing", "2", fill); err != nil || count != 2 {
		t.Errorf("filled %d times, want twice (%v)", count, err)
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, "made", "*")); len(left) != 1 {
		t.Errorf("cache holds %v, want the last only", left)
	}
	if left, _ := filepath.Glob(filepath.Join(c.dir, "made", ".new-*")); len(left) != 0 {
		t.Errorf("cache holds %v of a failure", left)
	}
}

func TestCheckStatic(t *testing.T) {
	source := filepath.Join(t.TempDir(), "main.go")
	if err := os.WriteFile(source, []byte("package main\nfunc main() {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		mode string
		want error
	}{{"exe", nil}, {"pie", ErrNotStatic}} {
		program := filepath.Join(t.TempDir(), tc.mode)
		cmd := exec.Command("go", "build", "-buildmode="+tc.mode, "-o", program, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v: %s", err, out)
		}
		if err := CheckStatic(program); !errors.Is(err, tc.want) {
			t.Errorf("CheckStatic(%s) = %v, want %v", tc.mode, err, tc.want)
		}
	}
	if err := CheckStatic(source); !errors.Is(err, ErrNotStatic) {
		t.Errorf("CheckStatic(source) = %v, want %v", err, ErrNotStatic)
	}
}

func TestCommandErrorShowsEndOfOutput(t *testing.T) {
	_, err := command{args: []string{"sh", "-c", "for i in 1 2 3 4 5 6 7; do echo line $i >&2; done; exit 3"}}.run(context.Background())
	if err == nil {
		t.Fatal("no error")
	}
	if !bytes.HasSuffix([]byte(err.Error()), []byte("exit status 3:\n\tline 3\n\tline 4\n\tline 5\n\tline 6\n\tline 7")) {
		t.Errorf("error is %q", err)
	}
}
