package cgroup

import (
	"errors"
	"strings"
	"testing"
)

func TestPlace(t *testing.T) {
	for _, c := range []struct {
		name, path string
		systemd    bool
		want       Placement
	}{
		{"cgroupfs: none", "", false, Placement{Path: "c1"}},
		{"cgroupfs: podman", "/libpod_parent/libpod-c1", false, Placement{Path: "/libpod_parent/libpod-c1"}},
		{"cgroupfs: kubernetes", "/kubepods/burstable/pod1/c1", false, Placement{Path: "/kubepods/burstable/pod1/c1"}},
		{"cgroupfs: docker", "/docker/c1", false, Placement{Path: "/docker/c1"}},
		{"cgroupfs: relative", "a/b", false, Placement{Path: "a/b"}},
		{"cgroupfs: unclean", "/a//b/./c/", false, Placement{Path: "/a/b/c"}},
		{"cgroupfs: climbs", "/../../a", false, Placement{Path: "/a"}},
		{"cgroupfs: relative climbs", "../../a", false, Placement{Path: "a"}},
		{"cgroupfs: colons are nothing special", "/a:b:c", false, Placement{Path: "/a:b:c"}},
		{"systemd: none", "", true, Placement{"/system.slice/vc-runtime-c1.scope", "system.slice", "vc-runtime-c1.scope"}},
		{"systemd: podman", "machine.slice:libpod:c1", true, Placement{"/machine.slice/libpod-c1.scope", "machine.slice", "libpod-c1.scope"}},
		{"systemd: CRI-O", "kubepods-burstable-pod1_2.slice:crio:c1", true, Placement{
			"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/crio-c1.scope", "kubepods-burstable-pod1_2.slice", "crio-c1.scope",
		}},
		{"systemd: docker", "system.slice:docker:c1", true, Placement{"/system.slice/docker-c1.scope", "system.slice", "docker-c1.scope"}},
		{"systemd: no slice", ":docker:c1", true, Placement{"/system.slice/docker-c1.scope", "system.slice", "docker-c1.scope"}},
		{"systemd: root slice", "-.slice:x:c1", true, Placement{"/x-c1.scope", "-.slice", "x-c1.scope"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Place(c.path, "c1", c.systemd)
			if err != nil || got != c.want {
				t.Errorf("%+v, %v\nwant %+v", got, err, c.want)
			}
		})
	}
}

func TestPlaceSandbox(t *testing.T) {
	for _, c := range []struct {
		path    string
		systemd bool
		want    Placement
	}{
		{"", false, Placement{Path: "vc-runtime-p1"}},
		{"c1", false, Placement{Path: "vc-runtime-p1"}},
		{"/kubepods/pod1/c1", false, Placement{Path: "/kubepods/pod1/vc-runtime-p1"}},
		{"/c1", false, Placement{Path: "/vc-runtime-p1"}},
		{"kubepods-pod1.slice:crio:c1", true, Placement{
			"/kubepods.slice/kubepods-pod1.slice/vc-runtime-p1.scope", "kubepods-pod1.slice", "vc-runtime-p1.scope",
		}},
		{"", true, Placement{"/system.slice/vc-runtime-p1.scope", "system.slice", "vc-runtime-p1.scope"}},
	} {
		got, err := PlaceSandbox(c.path, "p1", c.systemd)
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v\nwant %+v", c.path, got, err, c.want)
		}
	}
	if _, err := PlaceSandbox("/", "p1", false); !errors.Is(err, ErrPath) {
		t.Errorf("the root: %v", err)
	}
}

func TestPlaceRefuses(t *testing.T) {
	for _, c := range []struct {
		name, path string
		systemd    bool
		expected   string
	}{
		{"cgroupfs: root", "/", false, "a path below the root"},
		{"cgroupfs: root by climbing", "/a/..", false, "a path below the root"},
		{"cgroupfs: newline", "/a\nb", false, "a path below the root"},
		{"systemd: a path", "/libpod_parent/libpod-c1", true, `"slice:prefix:name"`},
		{"systemd: two parts", "a.slice:b", true, `"slice:prefix:name"`},
		{"systemd: four parts", "a.slice:b:c:d", true, `"slice:prefix:name"`},
		{"systemd: no name", "a.slice:b:", true, "the name of a scope"},
		{"systemd: a slice's name", "a.slice:b:c.slice", true, "the name of a scope"},
		{"systemd: no slice's name", "a:b:c", true, "a slice such as"},
		{"systemd: slice with path", "a/b.slice:b:c", true, "a slice such as"},
		{"systemd: slice with empty part", "a--b.slice:b:c", true, "a slice such as"},
		{"systemd: unit with path", "a.slice:b:../../c", true, "letters, digits"},
		{"systemd: long unit", "a.slice:b:" + strings.Repeat("x", 255), true, "letters, digits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Place(c.path, "c1", c.systemd)
			if !errors.Is(err, ErrPath) {
				t.Fatalf("%+v, %v", p, err)
			}
			for _, want := range []string{"linux.cgroupsPath", c.expected} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func FuzzPlace(f *testing.F) {
	for _, s := range []string{"", "/a/b", "../x", "a.slice:b:c", "::", "-.slice:-:-"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	f.Fuzz(func(t *testing.T, s string, systemd bool) {
		p, err := Place(s, "c1", systemd)
		if err != nil {
			return
		}
		g, err := host{{mount: "/mnt", root: "/", own: "/own", init: "/"}}.group(hierarchy{mount: "/mnt", root: "/", own: "/own", init: "/"}, p)
		if err != nil {
			t.Fatal(err)
		}
		if err := (&Cgroup{Groups: []Group{g}}).check(); err != nil {
			t.Errorf("%q leads to %q: %v", s, g.Dir, err)
		}
	})
}
