package server

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

func TestSetUser(t *testing.T) {
	root := t.TempDir()
	write(t, root, "etc/passwd", "root:x:0:0::/root:/bin/sh\nwww:x:33:34::/srv:/bin/sh\n")
	write(t, root, "etc/group", "root:x:0:\nweb:x:44:www\nstaff:x:50:\n")
	tests := map[string]string{
		"":          `{"uid":1,"umask":18}`, // as the specification has it
		"www":       `{"additionalGids":[44],"gid":34,"uid":33,"umask":18}`,
		"www:staff": `{"additionalGids":[],"gid":50,"uid":33,"umask":18}`,
		"1000":      `{"additionalGids":[],"gid":0,"uid":1000,"umask":18}`,
		"1000:7":    `{"additionalGids":[],"gid":7,"uid":1000,"umask":18}`,
	}
	for who, want := range tests {
		process := decoded(t, `{"user":{"uid":1,"umask":18}}`)
		if err := setUser(process, root, who); err != nil {
			t.Errorf("%q: %v", who, err)
		} else if got := encoded(t, process["user"]); got != want {
			t.Errorf("%q: got %s, want %s", who, got, want)
		}
	}
	for _, who := range []string{"nobody", "www:none", "-1"} {
		if err := setUser(object{}, root, who); !errors.Is(err, syscall.EINVAL) || !strings.Contains(err.Error(), who) {
			t.Errorf("%q: %v", who, err)
		}
	}
}

// A rootfs is the image's: what it has in place of a file leads nowhere, and
// holds nobody up.
func TestOpenInRoot(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "passwd")
	write(t, filepath.Dir(outside), "passwd", "outside")
	write(t, root, "real/passwd", "inside")
	for name, make := range map[string]func(string) error{
		"missing":  func(string) error { return nil },
		"folder":   func(p string) error { return os.Mkdir(p, 0o755) },
		"fifo":     func(p string) error { return unix.Mkfifo(p, 0o644) },
		"outside":  func(p string) error { return os.Symlink(outside, p) },
		"up":       func(p string) error { return os.Symlink("../../../../../../"+outside, p) },
		"loop":     func(p string) error { return os.Symlink("loop", p) },
		"magic":    func(p string) error { return os.Symlink("/proc/self/exe", p) },
		"relative": func(p string) error { return os.Symlink("real/passwd", p) },
		"absolute": func(p string) error { return os.Symlink("/real/passwd", p) },
	} {
		if err := make(filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
		want := ""
		if name == "relative" || name == "absolute" {
			want = "inside"
		}
		f, err := openInRoot(root, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		b, err := io.ReadAll(f)
		f.Close()
		if err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v; want %q", name, b, err, want)
		}
	}
}

func TestFilesAreConfined(t *testing.T) {
	for name, ok := range map[string]bool{"hosts": true, "hostname": true, "resolv.conf": true, "passwd": false, "../hosts": false, "": false} {
		if err := checkFiles(map[string][]byte{name: nil}); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
	spec := decoded(t, `{"mounts":[{"destination":"/proc","type":"proc"}]}`)
	if err := addFiles(spec, "/d", map[string][]byte{"hosts": nil}); err != nil {
		t.Fatal(err)
	}
	want := `[{"destination":"/proc","type":"proc"},{"destination":"/etc/hosts","options":["bind","nosuid","nodev"],"source":"/d/hosts","type":"bind"}]`
	if got := encoded(t, spec["mounts"]); got != want {
		t.Errorf("got %s", got)
	}
}

func TestDisksAreChecked(t *testing.T) {
	good := func() *api.CreateContainerRequest {
		return &api.CreateContainerRequest{
			Root:  &api.LayeredRoot{Layers: []string{"1-0", "1-1"}, Upper: "1-2"},
			Disks: []*api.DiskNode{{Serial: "1-3", Path: "/dev/x", Mode: 0o600, Access: "rw"}},
		}
	}
	if err := checkDisks(good()); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*api.CreateContainerRequest){
		"no layers":     func(r *api.CreateContainerRequest) { r.Root.Layers = nil },
		"layer":         func(r *api.CreateContainerRequest) { r.Root.Layers[1] = "../vda" },
		"upper":         func(r *api.CreateContainerRequest) { r.Root.Upper = "" },
		"serial":        func(r *api.CreateContainerRequest) { r.Disks[0].Serial = "a b" },
		"relative path": func(r *api.CreateContainerRequest) { r.Disks[0].Path = "x" },
		"unclean path":  func(r *api.CreateContainerRequest) { r.Disks[0].Path = "/dev/../x" },
		"mode":          func(r *api.CreateContainerRequest) { r.Disks[0].Mode = 0o4755 },
		"access":        func(r *api.CreateContainerRequest) { r.Disks[0].Access = "rwx" },
	} {
		r := good()
		spoil(r)
		if err := checkDisks(r); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAddDevices(t *testing.T) {
	linux := decoded(t, `{"resources":{"memory":{"limit":1},"devices":[{"allow":false,"access":"rwm"}]}}`)
	d := device{&api.DiskNode{Path: "/dev/x", Mode: 0o640, Uid: 1, Gid: 2, Access: "r"}, 254, 16}
	if err := addDevices(linux, []device{d}); err != nil {
		t.Fatal(err)
	}
	want := `{"devices":[{"access":"rwm","allow":false},{"access":"r","allow":true,"major":254,"minor":16,"type":"b"}],"memory":{"limit":1}}`
	if got := encoded(t, linux["resources"]); got != want {
		t.Errorf("got %s", got)
	}
	want = `[{"fileMode":416,"gid":2,"major":254,"minor":16,"path":"/dev/x","type":"b","uid":1}]`
	if got := encoded(t, linux["devices"]); got != want {
		t.Errorf("got %s", got)
	}
}

func write(t *testing.T, root, name, text string) {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
