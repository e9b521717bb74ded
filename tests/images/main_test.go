// Package images holds the tests of the image service that need root, or
// processes to kill: power cuts, SIGKILL at every step of a pull, and Debian's
// registry.
package images

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/archive"
	"github.com/vc-runtime/vc-runtime/image/pull"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// The test program runs itself again: in namespaces of its own, where mounts and
// ports are nobody else's, and as a process that pulls.
const (
	innerVar = "VC_IMAGES_INNER"
	pullVar  = "VC_IMAGES_PULL" // the step to be killed at; none where it is "-1"
)

func TestMain(m *testing.M) {
	if at := os.Getenv(pullVar); at != "" {
		os.Exit(playPull(os.Args[1], os.Args[2], at))
	}
	if os.Geteuid() != 0 {
		fmt.Println("SKIPPED: tests/images needs root")
		return
	}
	if os.Getenv(innerVar) == "" {
		os.Exit(inNamespaces())
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func inNamespaces() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), innerVar+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL,
	}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func prepare() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}

// tool is a program that the test group of hack/deps has.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v: run `hack/deps test`", err)
	}
	return path
}

// sample is an image with two layers, the upper of which does not name the
// folder that it has a file in.
func sample(t testing.TB) *registrytest.Image {
	t.Helper()
	return registrytest.NewImage(t, []registrytest.Layer{
		registrytest.Files(t, "gzip", map[string]string{"bin/": "", "bin/sh": registrytest.Noise(1, 40_000)}),
		registrytest.Files(t, "zstd", map[string]string{"bin/true": registrytest.Noise(2, 20_000)}),
	})
}

// pullInto pulls into the store at root, as a process does, and gives the image.
func pullInto(ctx context.Context, root, name string, hook func(string) error) (*store.Store, *store.Image, error) {
	s, err := store.Open(root, store.Options{Hook: hook})
	if err != nil {
		return nil, nil, err
	}
	r, err := ref.Parse(name)
	if err != nil {
		return nil, nil, err
	}
	src, end, err := source(root, r)
	if err != nil {
		return nil, nil, err
	}
	defer end()
	img, lease, err := pull.Pull(ctx, s, src, r.String(), pull.Options{
		Platform: "linux/amd64", Unpack: pull.UnpackLayer, Downloads: 1,
	})
	if err != nil {
		return nil, nil, err
	}
	return s, img, lease.Close()
}

// source is a registry, or a folder in the OCI layout.
func source(root string, r ref.Reference) (src pull.Source, end func() error, err error) {
	if r.Transport == ref.Layout {
		files, err := archive.Open(r, root)
		if err != nil {
			return nil, nil, err
		}
		return files, files.Close, nil
	}
	repo, err := registry.New(registry.Options{AuthFile: root + "/none", Backoff: time.Millisecond}).Repository(r)
	if err != nil {
		return nil, nil, err
	}
	return pull.FromRegistry(repo, r), func() error { repo.Close(); return nil }, nil
}

// playPull pulls, prints the steps, and kills itself at one of them.
func playPull(root, name, at string) int {
	last, err := strconv.Atoi(at)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	steps := make(chan struct{}, 1) // a mutex: there are several workers
	n := 0
	_, _, err = pullInto(context.Background(), root, name, func(step string) error {
		steps <- struct{}{}
		if n == last {
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				return err
			}
			select {}
		}
		n++
		fmt.Println(step)
		<-steps
		return nil
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// undamaged checks a store: all that is in it is what it should be, to the last
// byte.
func undamaged(t *testing.T, root, when string) *store.Store {
	t.Helper()
	s, err := store.Open(root, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	problems, err := s.Fsck(t.Context(), store.FsckOptions{Content: true, Unpack: pull.Remake(s)})
	if err != nil || len(problems) > 0 {
		t.Errorf("fsck %s: %v, %v", when, problems, err)
	}
	return s
}

// recovers checks a store after an accident: nothing damaged is in it, the pull works now, and
// after the image has gone nothing is left.
func recovers(t *testing.T, root, name string) {
	t.Helper()
	undamaged(t, root, "after the accident")
	if _, _, err := pullInto(t.Context(), root, name, nil); err != nil {
		t.Errorf("the retry: %v", err)
	}
	s := undamaged(t, root, "after the retry")
	if err := s.RemoveImage(t.Context(), name); err != nil {
		t.Error(err)
	}
	if _, err := s.GC(t.Context(), store.GCOptions{}); err != nil {
		t.Error(err)
	}
	for _, dir := range []string{"blobs/sha256", "layers", "images", "containers", "leases", "tmp", "partial", "trash", "locks"} {
		if entries, err := os.ReadDir(root + "/" + dir); err != nil || len(entries) > 0 {
			t.Errorf("left in %s: %v, %v", dir, entries, err)
		}
	}
	if r, err := s.GC(t.Context(), store.GCOptions{}); err != nil || !r.Empty() {
		t.Errorf("a second collection: %+v, %v", r, err)
	}
}

func lines(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == '\n' })
}
