package mountpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// tree makes a share: rootfs, a bound folder and a bound file.
func tree(t *testing.T) (share, outside string) {
	t.Helper()
	dir := t.TempDir()
	share, outside = filepath.Join(dir, "share"), filepath.Join(dir, "outside")
	for _, d := range []string{"rootfs/etc", "rootfs/var/real", "m/0"} {
		if err := os.MkdirAll(filepath.Join(share, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"rootfs/etc/passwd": "image", "m/1": "bound"} {
		if err := os.WriteFile(filepath.Join(share, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{
		"link": "var/real", "absolute": "/var/real", "dangling": "var/missing", "deep": "/opt/a/b",
		"escape": "../../../../../x/y", "loop": "loop", "outside": outside + "/z", "chain": "dangling/more",
	} {
		if err := os.Symlink(to, filepath.Join(share, "rootfs", name)); err != nil {
			t.Fatal(err)
		}
	}
	return share, outside
}

func TestMount(t *testing.T) {
	for _, tt := range []struct {
		place string
		file  bool
		made  string // below the share; "" where nothing is
		err   error
	}{
		{place: "/new", made: "rootfs/new"},
		{place: "/a/b/c", made: "rootfs/a/b/c"},
		{place: "/a/file", file: true, made: "rootfs/a/file"},
		{place: "/link/sub", made: "rootfs/var/real/sub"},
		{place: "/absolute/sub", made: "rootfs/var/real/sub"},
		{place: "/dangling", made: "rootfs/var/missing"},
		{place: "/dangling", file: true, made: "rootfs/var/missing"},
		{place: "/dangling/sub", made: "rootfs/var/missing/sub"},
		{place: "/deep", made: "rootfs/opt/a/b"},
		{place: "/chain", made: "rootfs/var/missing/more"},
		{place: "/escape", made: "rootfs/x/y"},
		{place: "/etc/passwd/x", err: unix.ENOTDIR},
		{place: "/loop", err: unix.ELOOP},
		{place: "/data/inner", made: "m/0/inner"},
		{place: "/data/../up", made: "rootfs/up"},
		{place: "/proc/x", err: ErrElsewhere},
	} {
		t.Run(tt.place, func(t *testing.T) {
			share, _ := tree(t)
			r := New(filepath.Join(share, "rootfs"))
			for _, m := range []struct{ place, from string }{{"/data", filepath.Join(share, "m/0")}, {"/proc", ""}} {
				if _, err := r.Mount(m.place, m.from, false); err != nil {
					t.Fatal(err)
				}
			}
			before, err := r.Mount(tt.place, "", tt.file)
			if !errors.Is(err, tt.err) || before != 0 {
				t.Fatalf("mode %o, %v; expected %v", before, err, tt.err)
			}
			if tt.made == "" {
				return
			}
			st, err := os.Lstat(filepath.Join(share, tt.made))
			if err != nil {
				t.Fatal(err)
			}
			if st.IsDir() == tt.file || st.Mode().Perm() != 0o755 {
				t.Errorf("%s is %s", tt.made, st.Mode())
			}
		})
	}
}

// TestOutside follows a symlink to a place that exists outside: it must be made
// below the rootfs.
func TestOutside(t *testing.T) {
	share, outside := tree(t)
	r := New(filepath.Join(share, "rootfs"))
	if _, err := r.Mount("/outside", "", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(outside, "z")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made outside: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(share, "rootfs", outside, "z")); err != nil {
		t.Error(err)
	}
}

func TestModeBefore(t *testing.T) {
	share, _ := tree(t)
	r := New(filepath.Join(share, "rootfs"))
	if err := os.Chmod(filepath.Join(share, "rootfs/var/real"), 0o711); err != nil {
		t.Fatal(err)
	}
	if before, err := r.Mount("/link", "", false); before != 0o711 || err != nil {
		t.Errorf("mode %o, %v", before, err)
	}
}

func TestReadFile(t *testing.T) {
	share, _ := tree(t)
	r := New(filepath.Join(share, "rootfs"))
	if b, err := r.ReadFile("/etc/passwd", 3); string(b) != "ima" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := r.ReadFile("/etc", 100); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := r.ReadFile("/nope", 100); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := r.Mount("/etc/passwd", filepath.Join(share, "m/1"), true); err != nil {
		t.Fatal(err)
	}
	if b, err := r.ReadFile("/etc/passwd", 100); string(b) != "bound" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

// FuzzMount wants nothing to be made outside, whatever the symlinks and places.
func FuzzMount(f *testing.F) {
	f.Add("/a/b", "../../x", "/a/c", "/l/d")
	f.Add("/l", "/l", "..", "/data/../../..")
	f.Add("/etc/passwd/x", "/data/l", "/", "/data/new")
	f.Fuzz(func(t *testing.T, place, link, other, last string) {
		share, outside := tree(t)
		os.Symlink(link, filepath.Join(share, "rootfs/l")) // an impossible one is not there
		os.Symlink(other, filepath.Join(share, "m/0/l"))
		r := New(filepath.Join(share, "rootfs"))
		r.Mount("/data", filepath.Join(share, "m/0"), false)
		r.Mount(place, "", false)
		r.Mount(other, filepath.Join(share, "m/1"), true)
		r.Mount(last, "", len(last)%2 == 0)
		r.ReadFile(last, 100)
		for dir, want := range map[string]int{outside: 0, filepath.Dir(share): 2, share: 2, filepath.Join(share, "m"): 2} {
			if entries, err := os.ReadDir(dir); err != nil || len(entries) != want {
				t.Errorf("%s has %v, %v", dir, entries, err)
			}
		}
	})
}
