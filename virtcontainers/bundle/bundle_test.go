package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
)

func image(c v1.ImageConfig) *v1.Image { return &v1.Image{Config: c} }

func TestSpec(t *testing.T) {
	full := v1.ImageConfig{
		Entrypoint: []string{"/entry"}, Cmd: []string{"default"}, Env: []string{"A=image", "PATH=/bin"},
		WorkingDir: "/srv/../data", StopSignal: "SIGINT",
		Labels: map[string]string{"maker": "me", "io.vc-runtime.stop.grace": "1h"},
	}
	declared := v1.ImageConfig{Cmd: []string{"a"}, Volumes: map[string]struct{}{"/b/./c/": {}, "/a": {}, "/b/c": {}}}
	tests := map[string]struct {
		image   v1.ImageConfig
		options Options
		look    func(*specs.Spec) any
		want    any
	}{
		"entry point and command": {full, Options{}, argsOf, []string{"/entry", "default"}},
		"another command":         {full, Options{Args: []string{"a", "b"}}, argsOf, []string{"/entry", "a", "b"}},
		"another entry point":     {full, Options{Entrypoint: []string{"/x"}}, argsOf, []string{"/x"}},
		"no entry point":          {full, Options{Entrypoint: []string{}, Args: []string{"a"}}, argsOf, []string{"a"}},
		"environment": {full, Options{Hostname: "h", Env: []string{"A=user", "B=1=2"}}, func(s *specs.Spec) any { return s.Process.Env },
			[]string{"PATH=/bin", "HOSTNAME=h", "A=user", "B=1=2"}},
		"default path": {v1.ImageConfig{Cmd: []string{"a"}}, Options{}, func(s *specs.Spec) any { return s.Process.Env[0] }, defaultPath},
		"folder":       {full, Options{}, func(s *specs.Spec) any { return s.Process.Cwd }, "/data"},
		"other folder": {full, Options{Workdir: "/w"}, func(s *specs.Spec) any { return s.Process.Cwd }, "/w"},
		"annotations": {full, Options{Annotations: map[string]string{"io.vc-runtime.x": "user"}}, func(s *specs.Spec) any { return s.Annotations },
			map[string]string{"maker": "me", "org.opencontainers.image.stopSignal": "SIGINT", "io.vc-runtime.x": "user"}},
		"limits": {full, Options{Memory: 64 << 20, CPUs: 1.5}, func(s *specs.Spec) any {
			r := s.Linux.Resources
			return []int64{*r.Memory.Limit, *r.CPU.Quota, int64(*r.CPU.Period)}
		}, []int64{64 << 20, 150_000, 100_000}},
		"volume": {full, Options{Volumes: []Volume{{"/a", "/b", true}}}, func(s *specs.Spec) any { return s.Mounts[len(s.Mounts)-1] },
			specs.Mount{Type: "bind", Source: "/a", Destination: "/b", Options: []string{"rbind", "rprivate", "ro"}}},
		"declared volumes, all writable": {declared, Options{}, mountsOf("tmpfs", "tmpcopyup"), []string(nil)},
		"declared volumes, read-only":    {declared, Options{ReadOnly: true}, mountsOf("tmpfs", "tmpcopyup"), []string{"/a", "/b/c"}},
		"declared volume, and the user's": {declared, Options{ReadOnly: true, Volumes: []Volume{{"/x", "/a", false}}}, mountsOf("tmpfs", "tmpcopyup"),
			[]string{"/b/c"}},
		"no ambient capabilities": {full, Options{}, func(s *specs.Spec) any { return len(s.Process.Capabilities.Ambient) }, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := Spec(image(tt.image), tt.options)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, tt.look(s)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// mountsOf are the destinations of mounts of a type with an option.
func mountsOf(kind, option string) func(*specs.Spec) any {
	return func(s *specs.Spec) any {
		var all []string
		for _, m := range s.Mounts {
			if m.Type == kind && slices.Contains(m.Options, option) {
				all = append(all, m.Destination)
			}
		}
		return all
	}
}

func argsOf(s *specs.Spec) any { return s.Process.Args }

func TestSpecRefuses(t *testing.T) {
	cmd := v1.ImageConfig{Cmd: []string{"a"}}
	tests := map[string]struct {
		image   v1.ImageConfig
		options Options
		want    string
	}{
		"no command":        {v1.ImageConfig{}, Options{}, "the image names no command"},
		"folder":            {cmd, Options{Workdir: "w"}, `working directory "w": expected an absolute path`},
		"image's folder":    {v1.ImageConfig{Cmd: []string{"a"}, WorkingDir: "w"}, Options{}, `working directory "w"`},
		"variable":          {cmd, Options{Env: []string{"A"}}, `environment variable "A": expected NAME=VALUE`},
		"variable no name":  {cmd, Options{Env: []string{"=A"}}, `environment variable "=A"`},
		"memory":            {cmd, Options{Memory: -1}, "memory -1"},
		"cpus":              {cmd, Options{CPUs: 0.001}, "cpus 0.001"},
		"volume's source":   {cmd, Options{Volumes: []Volume{{Source: "a", Destination: "/b"}}}, `"a": expected an absolute path`},
		"volume's place":    {cmd, Options{Volumes: []Volume{{Source: "/a", Destination: "b"}}}, `"b": expected an absolute path`},
		"declared volume":   {v1.ImageConfig{Cmd: []string{"a"}, Volumes: map[string]struct{}{"a/b": {}}}, Options{}, `volume "a/b" of the image: expected an absolute path`},
		"declared root":     {v1.ImageConfig{Cmd: []string{"a"}, Volumes: map[string]struct{}{"/..": {}}}, Options{}, `volume "/.." of the image`},
		"image's variables": {v1.ImageConfig{Cmd: []string{"a"}, Env: []string{"oops"}}, Options{}, `environment variable "oops"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Spec(image(tt.image), tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q in it", err, tt.want)
			}
		})
	}
}

// An upper disk is a sound file system of the wanted size that takes little
// space, also the second one, which is a copy.
func TestMakeAndRemove(t *testing.T) {
	home := t.TempDir()
	const size = 1 << 30
	for _, name := range []string{"a", "b"} {
		dir, err := Claim(home, name, Owner{Root: "/run/x", Container: name})
		if err != nil {
			t.Fatal(err)
		}
		img, err := Make(t.Context(), dir, Config{
			Options: Options{ID: name}, Image: image(v1.ImageConfig{Cmd: []string{"a"}, User: "www"}),
			Layers: []string{"/l"}, UpperSize: size, Cache: filepath.Join(home, ".cache"),
		})
		if err != nil {
			t.Fatal(err)
		}
		if img.User != "www" {
			t.Errorf("user %q", img.User)
		}
		var st unix.Stat_t
		if err := unix.Stat(img.Upper, &st); err != nil {
			t.Fatal(err)
		}
		if st.Size != size || st.Blocks*512 > size/50 {
			t.Errorf("%d bytes, of them %d on disk", st.Size, st.Blocks*512)
		}
		if out, err := exec.Command("/usr/sbin/fsck.ext4", "-f", "-n", img.Upper).CombinedOutput(); err != nil {
			t.Errorf("fsck: %v: %s", err, out)
		}
		if err := Release(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("left behind: %v", err)
		}
	}
}

func TestUpperSize(t *testing.T) {
	for _, size := range []int64{0, MinUpper - 1, MaxUpper + 1} {
		if err := makeUpper(t.Context(), t.TempDir(), filepath.Join(t.TempDir(), "u"), size); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestClaimTwice(t *testing.T) {
	home := t.TempDir()
	if _, err := Claim(home, "a", Owner{}); err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(home, "a", Owner{}); !errors.Is(err, state.ErrExist) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(home, making+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Sweep takes what is nobody's, and nothing else.
func TestSweep(t *testing.T) {
	home := t.TempDir()
	dead := func(o *Owner) { o.Maker.StartTime++ } // another process has the pid
	for name, change := range map[string]func(*Owner){
		"making":   func(*Owner) {},
		"lives":    dead,
		"gone":     dead,
		"rebooted": func(o *Owner) { o.Boot = "another" },
	} {
		dir, err := Claim(home, name, Owner{Root: "/r", Container: name})
		if err != nil {
			t.Fatal(err)
		}
		o, err := OwnerOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		change(o)
		text, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ownerName), text, filePerm); err != nil {
			t.Fatal(err)
		}
	}
	self, err := state.Self()
	if err != nil {
		t.Fatal(err)
	}
	for name, start := range map[string]uint64{"mine": self.StartTime, "killed": self.StartTime + 1} {
		_ = name
		if err := os.Mkdir(filepath.Join(home, fmt.Sprintf("%s%d-%d", making, self.Pid, start)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(home, "half released"), 0o700); err != nil {
		t.Fatal(err)
	}
	var released []string
	known := func(root, id string) (bool, error) { return root == "/r" && (id == "lives" || id == "rebooted"), nil }
	if err := Sweep(context.Background(), home, known, func(name string) error { released = append(released, name); return nil }); err != nil {
		t.Fatal(err)
	}
	want := []string{fmt.Sprintf("%s%d-%d", making, self.Pid, self.StartTime+1), "gone", "half released", "rebooted"}
	if diff := cmp.Diff(want, released); diff != "" {
		t.Error(diff)
	}
	entries, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("left: %v", entries)
	}
}
