package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vc-runtime/vc-runtime/image/pull"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// shared is a layer with a folder that anybody may write to.
func shared(t *testing.T) registrytest.Layer {
	t.Helper()
	var text bytes.Buffer
	w := tar.NewWriter(&text)
	if err := w.WriteHeader(&tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777, Uid: 7}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return registrytest.Compressed(t, "gzip", text.Bytes())
}

// An image of many layers: however many file system images it becomes, it looks
// the same, and folders that a layer does not name look as they do below.
func TestManyLayers(t *testing.T) {
	const many = 40
	layers := []registrytest.Layer{shared(t)}
	for i := 1; i < many; i++ {
		files := map[string]string{fmt.Sprintf("tmp/f%d", i): fmt.Sprint(i), "last": fmt.Sprint(i)}
		if i > 1 {
			files[fmt.Sprintf("tmp/.wh.f%d", i-1)] = ""
		}
		layers = append(layers, registrytest.Files(t, "gzip", files))
	}
	r := registrytest.New(t)
	r.Add("x", "latest", registrytest.NewImage(t, layers))
	name, err := ref.Parse(r.Host() + "/x")
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(memory(t), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{0, 1, 2, 15, many} {
		repo, err := registry.New(registry.Options{AuthFile: "/none"}).Repository(name)
		if err != nil {
			t.Fatal(err)
		}
		img, lease, err := pull.Pull(t.Context(), s, pull.FromRegistry(repo, name), name.String(), pull.Options{
			Platform: "linux/amd64", Unpack: pull.UnpackLayer, Downloads: 3, MaxLayers: limit,
		})
		repo.Close()
		if err != nil {
			t.Fatal(err)
		}
		files, err := s.LayerFiles(img)
		if want := min(limit+many*(1-min(limit, 1)), many); err != nil || len(files) != want {
			t.Errorf("limit %d: %d file system images, want %d: %v", limit, len(files), want, err)
		}
		looksRight(t, s, img, many-1)
		if problems, err := s.Fsck(t.Context(), store.FsckOptions{Content: true, Unpack: pull.Remake(s)}); err != nil || len(problems) > 0 {
			t.Errorf("limit %d: fsck: %v, %v", limit, problems, err)
		}
		if err := lease.Close(); err != nil {
			t.Error(err)
		}
		// What the image was made into before is garbage now.
		if _, err := s.GC(t.Context(), store.GCOptions{}); err != nil {
			t.Error(err)
		}
		entries, err := os.ReadDir(filepath.Join(s.Root(), "layers"))
		if err != nil || len(entries) != len(files) {
			t.Errorf("limit %d: %d layers are kept, want %d: %v", limit, len(entries), len(files), err)
		}
	}
}

func looksRight(t *testing.T, s *store.Store, img *store.Image, last int) {
	t.Helper()
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := pull.Folder(t.Context(), s, img, dir); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dir.Name() + "/last"); err != nil || string(got) != fmt.Sprint(last) {
		t.Errorf("last is %q, %v", got, err)
	}
	entries, err := os.ReadDir(dir.Name() + "/tmp")
	if err != nil || len(entries) != 1 || entries[0].Name() != fmt.Sprintf("f%d", last) {
		t.Errorf("tmp has %v, %v", entries, err)
	}
	if info, err := os.Stat(dir.Name() + "/tmp"); err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o777 {
		t.Errorf("tmp is %v, %v", info.Mode(), err)
	}
}
