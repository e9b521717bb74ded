package oci

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "write the golden files and docs/spec-support.md")

// fakeHost is a host on which everything exists, but for what its name says.
type fakeHost struct{}

func (fakeHost) inspect(path string) (source, error) {
	s := source{path: path, mode: fs.ModeDir | 0o755}
	switch base := filepath.Base(path); {
	case base == "missing":
		return source{}, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
	case path == "/dev/shm", base == "shm":
		s.tmpfs, s.size = true, 64<<20
	case path == "/dev/null":
		s.mode, s.major, s.minor = fs.ModeDevice|fs.ModeCharDevice|0o666, 1, 3
	case path == "/dev/kvm":
		s.mode, s.major, s.minor = fs.ModeDevice|fs.ModeCharDevice|0o660, 10, 232
	case path == "/dev/sda":
		s.mode, s.major, s.minor = fs.ModeDevice|0o660, 8, 0
	case path == "/var/run/link-to-proc":
		s.path = "/proc"
	case strings.HasSuffix(base, ".sock"):
		s.mode = fs.ModeSocket | 0o755
	case strings.HasPrefix(base, "host"), strings.HasSuffix(base, "-hosts"), strings.Contains(base, "."),
		base == "docker-init", base == "0", base == "file":
		if base != "kubernetes.io~empty-dir" {
			s.mode = 0o644
		}
	}
	return s, nil
}

// testID is the container's id in these tests.
const testID = "c1"

// loadTestdata is Load without a rootfs on disk.
func loadTestdata(t testing.TB, name string) *Bundle {
	t.Helper()
	dir := filepath.Join("testdata", name)
	spec, _, err := loadSpec(filepath.Join(dir, configName))
	if err != nil {
		t.Fatal(err)
	}
	return &Bundle{Dir: "/bundle", Spec: spec, Rootfs: "/bundle/rootfs"}
}

// podOptions are those of the bundles that belong to a pod.
var podOptions = map[string]GuestOptions{
	"containerd-sandbox": {Role: Sandbox},
	"containerd-member":  {Role: Member},
}

// golden is a Guest in a form that reads well.
type golden struct {
	Binds   []Bind
	Dropped []Dropped
	Spec    *specs.Spec
}

func TestGolden(t *testing.T) {
	dirs, err := filepath.Glob("testdata/*/config.json")
	if err != nil || len(dirs) < 9 {
		t.Fatalf("%d test bundles: %v", len(dirs), err)
	}
	for _, path := range dirs {
		name := filepath.Base(filepath.Dir(path))
		t.Run(name, func(t *testing.T) {
			b := loadTestdata(t, name)
			before, _ := json.Marshal(b.Spec)
			opts := podOptions[name]
			opts.ID = testID
			g, err := b.guest(opts, fakeHost{})
			if err != nil {
				t.Fatal(err)
			}
			if after, _ := json.Marshal(b.Spec); !bytes.Equal(before, after) {
				t.Error("the bundle's own specification was changed")
			}
			if strings.Contains(string(g.Spec), "run.oci") || strings.Contains(string(g.Spec), "/bundle") {
				t.Error("the guest's specification has an annotation for crun, or a host path")
			}
			got := golden{Binds: g.Binds, Dropped: g.Dropped}
			if err := json.Unmarshal(g.Spec, &got.Spec); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, filepath.Join("testdata", name, "guest.golden"), got)
		})
	}
}

func checkGolden(t *testing.T, path string, v golden) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; -update writes it):\n%s", path, diff)
	}
}

// TestDefaultSpec compares with the file that runc 1.1.5 writes.
func TestDefaultSpec(t *testing.T) {
	want, err := os.ReadFile("testdata/default/config.json")
	if err != nil {
		t.Fatal(err)
	}
	spec := DefaultSpec()
	if spec.Hostname != "vc-runtime" || spec.Version != specs.Version {
		t.Errorf("hostname %q, version %q", spec.Hostname, spec.Version)
	}
	last := len(spec.Linux.Namespaces) - 1
	if spec.Linux.Namespaces[last].Type != specs.CgroupNamespace {
		t.Error("no cgroup namespace")
	}
	spec.Hostname, spec.Version = "runc", "1.0.2-dev"
	spec.Linux.Namespaces = spec.Linux.Namespaces[:last]
	got, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("-runc +ours:\n%s", diff)
	}
}
