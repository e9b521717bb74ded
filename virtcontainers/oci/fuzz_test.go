package oci

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func addBundles(f *testing.F) {
	paths, err := filepath.Glob("testdata/*/config.json")
	if err != nil || len(paths) == 0 {
		f.Fatalf("%d test bundles: %v", len(paths), err)
	}
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
}

// FuzzLoad wants every specification that passes to have what the rest of the
// runtime takes for granted.
func FuzzLoad(f *testing.F) {
	addBundles(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parseSpec(data)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has more than a line: %q", err)
			}
			return
		}
		if spec.Process == nil || len(spec.Process.Args) == 0 || !filepath.IsAbs(spec.Process.Cwd) {
			t.Errorf("passed: %+v", spec.Process)
		}
		sandbox, _, err := SandboxOf(spec.Annotations, testID)
		if err == nil && strings.ContainsAny(sandbox, "/\x00") {
			t.Errorf("sandbox %q", sandbox)
		}
		if path, _, err := NetworkNamespace(spec); err == nil && path != "" && !filepath.IsAbs(path) {
			t.Errorf("network namespace %q", path)
		}
	})
}

// FuzzGuest wants no bundle to name a path of the guest, or anything else that
// is not the container's.
func FuzzGuest(f *testing.F) {
	addBundles(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := parseSpec(data)
		if err != nil {
			return
		}
		g, err := (&Bundle{Dir: "/bundle", Spec: spec, Rootfs: "/bundle/rootfs"}).guest(GuestOptions{ID: testID}, fakeHost{})
		if err != nil {
			return
		}
		var guest *specs.Spec
		if err := json.Unmarshal(g.Spec, &guest); err != nil {
			t.Fatal(err)
		}
		if err := checkConfined(g, guest); err != nil {
			t.Errorf("%v\n%s", err, g.Spec)
		}
	})
}

func checkConfined(g *Guest, guest *specs.Spec) error {
	if guest.Root.Path != guestRootfs || guest.Linux.CgroupsPath != "/vc/"+testID {
		return errors.New("root or cgroup")
	}
	if len(guest.Annotations) > 0 || guest.VM != nil || guest.Linux.IntelRdt != nil {
		return errors.New("annotations or others")
	}
	//lint:ignore SA1019 callers still set it
	if h := guest.Hooks; h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.Poststart)+len(h.Poststop) > 0 {
		return errors.New("a hook outside of the container")
	}
	for _, ns := range guest.Linux.Namespaces {
		if ns.Path != "" && (ns.Type != specs.NetworkNamespace || ns.Path != guestNetwork) {
			return errors.New("a namespace's path")
		}
	}
	for file := range guestUnified(guest) {
		if strings.Contains(file, "/") || strings.HasPrefix(file, "cgroup.") {
			return errors.New("a cgroup file")
		}
	}
	binds := 0
	for _, m := range guest.Mounts {
		if isBind(&m) {
			if m.Source != "m/"+strconv.Itoa(binds) {
				return errors.New("the source of a bind mount")
			}
			binds++
		} else if strings.Contains(m.Source, "/") {
			return errors.New("the source of a mount")
		}
		if !filepath.IsAbs(m.Destination) || m.Destination == "/" || strings.Contains(m.Destination, "..") && filepath.Clean(m.Destination) != m.Destination {
			return errors.New("the destination of a mount")
		}
	}
	if binds != len(g.Binds) {
		return errors.New("the number of binds")
	}
	return nil
}

func guestUnified(s *specs.Spec) map[string]string {
	if s.Linux.Resources == nil {
		return nil
	}
	return s.Linux.Resources.Unified
}
