package layers

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// debian is the Debian tree of `make debian`.
func debian(t testing.TB) string {
	t.Helper()
	const dir = "../../build/debian"
	if _, err := os.Stat(dir + "/etc/debian_version"); err != nil {
		t.Fatalf("%v: run `make debian`", err)
	}
	return dir
}

// packed packs a folder as a layer.
func packed(t testing.TB, dir string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layer.tar")
	cmd := exec.Command(tool(t, "tar"), "--create", "--format=posix", "--xattrs", "--xattrs-include=*", "--numeric-owner",
		"--file", name, "--directory", dir, ".")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	return name
}

// TestDebian: a whole distribution is the same in the tree that it was packed
// from, in the kernel's mount, and in a folder that it is exported to.
func TestDebian(t *testing.T) {
	needRoot(t)
	tree := debian(t)
	want, err := listing(tree)
	if err != nil {
		t.Fatal(err)
	}
	blob, err := os.Open(packed(t, tree))
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	f := NewImage(t)
	if _, err := layer.Unpack(t.Context(), layer.Blob{Reader: blob, MediaType: Tar}, f, layer.Limits{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, shown(t, f)); diff != "" {
		t.Errorf("the image differs (-tree +image):\n%s", diff)
	}
	if diff := cmp.Diff(want, exported(t, []*os.File{f})); diff != "" {
		t.Errorf("the exported folder differs (-tree +exported):\n%s", diff)
	}
}

// layout is an OCI image layout of uncompressed layers, with an image tagged
// "test".
func layout(t *testing.T, layers ...[]byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	type object map[string]any
	put := func(data []byte, mediaType string) object {
		d := digest.FromBytes(data)
		if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", d.Encoded()), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return object{"mediaType": mediaType, "digest": d, "size": len(data)}
	}
	encode := func(o object) []byte {
		data, err := json.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	var descriptors []object
	var ids []digest.Digest
	for _, l := range layers {
		descriptors = append(descriptors, put(l, Tar))
		ids = append(ids, digest.FromBytes(l))
	}
	config := put(encode(object{"architecture": "amd64", "os": "linux", "config": object{}, "rootfs": object{"type": "layers", "diff_ids": ids}}),
		"application/vnd.oci.image.config.v1+json")
	manifest := put(encode(object{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config, "layers": descriptors}),
		"application/vnd.oci.image.manifest.v1+json")
	manifest["annotations"] = object{"org.opencontainers.image.ref.name": "test"}
	for name, o := range map[string]object{
		"oci-layout": {"imageLayoutVersion": "1.0.0"},
		"index.json": {"schemaVersion": 2, "manifests": []object{manifest}},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), encode(o), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestUmoci: umoci makes of layers the folder that Export makes.
func TestUmoci(t *testing.T) {
	needRoot(t)
	umoci := tool(t, "umoci")
	for name, items := range stacks {
		if name == "implied folders" {
			// umoci gives them the time of day, and follows the symbolic links
			// of layers below, which an overlay cannot.
			continue
		}
		t.Run(name, func(t *testing.T) {
			var layers [][]byte
			for _, layerItems := range items {
				layers = append(layers, Archive(t, layerItems...))
			}
			bundle := filepath.Join(t.TempDir(), "bundle")
			if out, err := exec.Command(umoci, "unpack", "--image", layout(t, layers...)+":test", bundle).CombinedOutput(); err != nil {
				t.Fatalf("umoci: %v\n%s", err, out)
			}
			want, err := listing(filepath.Join(bundle, "rootfs"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, exported(t, unpacked(t, items))); diff != "" {
				t.Errorf("-umoci +exported:\n%s", diff)
			}
		})
	}
}

// TestHuge: files of more than 4 GiB, with holes.
func TestHuge(t *testing.T) {
	needRoot(t)
	const size = 5<<30 + 1000
	pieces := map[int64]string{0: "begin", 4<<30 + 5: "middle", size - 3: "end"}
	f := NewImage(t)
	blob := layer.Blob{Reader: bytes.NewReader(Join(Sparse("huge", size, pieces, 0, 4<<30+5, size-3))), MediaType: Tar}
	if _, err := layer.Unpack(t.Context(), blob, f, layer.Limits{}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool(t, "fsck.erofs"), f.Name()).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	mounted(t, []string{f.Name()}, func(dirs []string) error {
		huge, err := os.Open(filepath.Join(dirs[0], "huge"))
		if err != nil {
			return err
		}
		defer huge.Close()
		if n, err := huge.Seek(0, unix.SEEK_END); n != size {
			t.Errorf("%d bytes, %v", n, err)
		}
		for at, want := range pieces {
			got := make([]byte, len(want))
			if _, err := huge.ReadAt(got, at); err != nil || string(got) != want {
				t.Errorf("at %d: %q, %v", at, got, err)
			}
		}
		hole := make([]byte, 1<<20)
		if _, err := huge.ReadAt(hole, 3<<30); err != nil || string(hole) != string(make([]byte, len(hole))) {
			t.Errorf("hole: %v", err)
		}
		return nil
	})
}
