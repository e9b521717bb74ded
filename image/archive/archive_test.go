package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/vc-runtime/vc-runtime/image/archive"
	"github.com/vc-runtime/vc-runtime/image/pull"
	"github.com/vc-runtime/vc-runtime/image/ref"
	"github.com/vc-runtime/vc-runtime/image/registry"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// entry is a file, or a symlink, of an archive.
type entry struct{ name, text, link string }

func writeTar(t *testing.T, path string, entries ...entry) string {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(e.text))}
		if e.link != "" {
			h.Typeflag, h.Linkname = tar.TypeSymlink, e.link
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	text := out.Bytes()
	if strings.HasSuffix(path, ".gz") {
		var z bytes.Buffer
		g := gzip.NewWriter(&z)
		if _, err := g.Write(text); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		text = z.Bytes()
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sample(t *testing.T) *registrytest.Image {
	t.Helper()
	return registrytest.NewImage(t, []registrytest.Layer{
		registrytest.Files(t, "gzip", map[string]string{"a": "1"}), registrytest.Files(t, "", map[string]string{"b": "2"}),
	})
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// layout is the files of an OCI layout with some images.
func layout(t *testing.T, index []ocispec.Descriptor, images ...*registrytest.Image) []entry {
	t.Helper()
	entries := []entry{
		{name: "oci-layout", text: `{"imageLayoutVersion":"1.0.0"}`},
		{name: "index.json", text: text(t, ocispec.Index{Manifests: index})},
	}
	for _, img := range images {
		for _, b := range append([][]byte{img.Config, img.Manifest}, img.Layers[0].Blob, img.Layers[1].Blob) {
			entries = append(entries, entry{name: "blobs/sha256/" + digest.FromBytes(b).Encoded(), text: string(b)})
		}
	}
	return entries
}

func described(img *registrytest.Image, tag string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(img.Manifest), Size: int64(len(img.Manifest))}
	if tag != "" {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	}
	return d
}

// load imports an image, and gives it with its names.
func load(t *testing.T, name string) (*store.Store, *store.Image, []string, error) {
	t.Helper()
	r, err := ref.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	src, err := archive.Open(r, t.TempDir())
	if err != nil {
		return nil, nil, nil, err
	}
	defer src.Close()
	s, err := store.Open(t.TempDir(), store.Options{Sync: store.SyncOff})
	if err != nil {
		t.Fatal(err)
	}
	img, lease, err := pull.Pull(t.Context(), s, src, "x", pull.Options{Platform: "linux/amd64", Unpack: pull.UnpackLayer, Downloads: 2})
	if err != nil {
		return nil, nil, nil, err
	}
	if problems, err := s.Fsck(t.Context(), store.FsckOptions{Content: true, Unpack: pull.Remake(s)}); err != nil || len(problems) > 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
	return s, img, src.Names(), lease.Close()
}

func TestLayouts(t *testing.T) {
	one := sample(t)
	two := registrytest.NewImage(t, one.Layers, func(i *ocispec.Image, _ *ocispec.Manifest) { i.Author = "two" })
	dir := t.TempDir()
	single := layout(t, []ocispec.Descriptor{described(one, "")}, one)
	both := layout(t, []ocispec.Descriptor{described(one, "v1"), described(two, "example.org/two:v2")}, one, two)
	folder := filepath.Join(dir, "folder")
	for _, e := range both {
		path := filepath.Join(folder, e.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(e.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	writeTar(t, dir+"/single.tar", single...)
	writeTar(t, dir+"/single.tar.gz", single...)
	writeTar(t, dir+"/both.tar", both...)
	for name, c := range map[string]struct {
		want  *registrytest.Image
		names []string
		err   string
	}{
		"oci-archive:" + dir + "/single.tar":    {want: one},
		"oci-archive:" + dir + "/single.tar.gz": {want: one},
		"oci-archive:" + dir + "/both.tar:v1":   {want: one},
		"oci-archive:" + dir + "/both.tar:v3":   {err: `"v3"`},
		"oci-archive:" + dir + "/both.tar":      {err: "2 images: name one of the tags"},
		"oci:" + folder + ":v1":                 {want: one},
		"oci:" + folder:                         {err: "2 images"},
		"oci:" + dir:                            {err: "not an OCI image layout"},
		"oci-archive:" + dir + "/none":          {err: "no such file"},
	} {
		_, img, names, err := load(t, name)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || img.ID() != digest.FromBytes(c.want.Config) || !reflect.DeepEqual(names, c.names) {
			t.Errorf("%s: %+v, %q, %v", name, img, names, err)
		}
	}
}

func TestDockerArchive(t *testing.T) {
	img := sample(t)
	dir := t.TempDir()
	manifest := text(t, []map[string]any{{"Config": "c.json", "RepoTags": []string{"some/x:1", "some/x:2"}, "Layers": []string{"l1/layer.tar", "l2/layer.tar"}}})
	good := []entry{
		{name: "c.json", text: string(img.Config)}, {name: "manifest.json", text: manifest},
		{name: "l1/layer.tar", text: string(img.Layers[0].Tar)},
		{name: "./other/layer.tar", text: string(img.Layers[1].Blob)}, {name: "l2/layer.tar", link: "../other/layer.tar"},
	}
	with := func(i int, e entry) []entry {
		changed := append([]entry{}, good...)
		changed[i] = e
		return changed
	}
	for name, c := range map[string]struct {
		entries []entry
		suffix  string
		err     string
		names   []string
	}{
		"plain":                    {entries: good, names: []string{"docker.io/some/x:1", "docker.io/some/x:2"}},
		"by name":                  {entries: good, suffix: ":some/x:2", names: []string{"docker.io/some/x:2"}},
		"compressed layer":         {entries: with(2, entry{name: "l1/layer.tar", text: string(img.Layers[0].Blob)}), suffix: ":some/x:1", names: []string{"docker.io/some/x:1"}},
		"by another name":          {entries: good, suffix: ":y", err: "docker.io/library/y:latest"},
		"no manifest":              {entries: good[:1], err: "not written by docker save"},
		"layer missing":            {entries: good[:4], err: "l2/layer.tar"},
		"layer changed":            {entries: with(2, entry{name: "l1/layer.tar", text: strings.Replace(string(img.Layers[0].Tar), "1", "2", 1)}), err: store.ErrDigest.Error()},
		"link to itself":           {entries: with(4, entry{name: "l2/layer.tar", link: "layer.tar"}), err: "l2/layer.tar"},
		"link out of the archive":  {entries: with(4, entry{name: "l2/layer.tar", link: "../../../../../../etc/passwd"}), err: "l2/layer.tar"},
		"config is no JSON":        {entries: with(0, entry{name: "c.json", text: "{"}), err: archive.ErrInvalid.Error()},
		"config is enormous":       {entries: with(0, entry{name: "c.json", text: strings.Repeat(" ", 9<<20)}), err: "expected at most"},
		"more layers than diffids": {entries: with(1, entry{name: "manifest.json", text: `[{"Config":"c.json","Layers":["a","b","c"]}]`}), err: "2 diff ids for 3 layers"},
	} {
		t.Run(name, func(t *testing.T) {
			path := writeTar(t, filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".tar"), c.entries...)
			_, got, names, err := load(t, "docker-archive:"+path+c.suffix)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil || got.ID() != digest.FromBytes(img.Config) || !reflect.DeepEqual(names, c.names) {
				t.Errorf("got %+v, %q, %v", got, names, err)
			}
		})
	}
}

// A symlink of a folder does not lead out of it.
func TestLayoutWithLinks(t *testing.T) {
	img, dir := sample(t), t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range layout(t, []ocispec.Descriptor{described(img, "")}, img) {
		path := filepath.Join(dir, e.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if e.name == "oci-layout" {
			if err := os.Symlink(secret, path); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(e.text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, err := load(t, "oci:"+dir); err == nil {
		t.Error("a link out of the folder was followed")
	}
}

func TestRootfsAndExport(t *testing.T) {
	for _, compression := range []string{"", "gzip", "zstd"} {
		layer := registrytest.Files(t, compression, map[string]string{"bin/": "", "bin/sh": "x"})
		var config ocispec.ImageConfig
		if err := archive.Change(&config, `CMD ["/bin/sh"]`); err != nil {
			t.Fatal(err)
		}
		src, err := archive.Rootfs(t.Context(), bytes.NewReader(layer.Blob), t.TempDir(), config, "linux/arm/v7")
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		s, err := store.Open(t.TempDir(), store.Options{Sync: store.SyncOff})
		if err != nil {
			t.Fatal(err)
		}
		img, lease, err := pull.Pull(t.Context(), s, src, "docker.io/library/x:1", pull.Options{Platform: "linux/arm/v7", Unpack: pull.UnpackLayer})
		if err != nil {
			t.Fatal(err)
		}
		defer lease.Close()
		if img.Layers[0].DiffID != digest.FromBytes(layer.Tar) || img.Layers[0].Digest != digest.FromBytes(layer.Blob) {
			t.Errorf("%q: %+v", compression, img.Layers)
		}
		var first, second bytes.Buffer
		if err := errors.Join(archive.Export(t.Context(), s, img, &first), archive.Export(t.Context(), s, img, &second)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Error("two exports differ")
		}
		path := filepath.Join(t.TempDir(), "x.tar")
		if err := os.WriteFile(path, first.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := ref.Parse("oci-archive:" + path + ":1")
		if err != nil {
			t.Fatal(err)
		}
		back, err := archive.Open(r, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer back.Close()
		if d, err := back.Resolve(t.Context()); err != nil || d != img.Manifest.Digest || !reflect.DeepEqual(back.Names(), []string{img.Name}) {
			t.Errorf("%q: it comes back as %s, %q, %v", compression, d, back.Names(), err)
		}
		if _, err := back.Manifest(t.Context(), img.Manifest.Digest, 10); !errors.Is(err, registry.ErrTooLarge) {
			t.Errorf("a manifest beyond the limit: %v", err)
		}
	}
	for name, stream := range map[string]string{"xz": "\xfd7zXZ\x00....", "bzip2": "BZh9....", "half a gzip": "\x1f\x8b\x08"} {
		if _, err := archive.Rootfs(t.Context(), strings.NewReader(stream), t.TempDir(), ocispec.ImageConfig{}, "linux/amd64"); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestChange(t *testing.T) {
	var c ocispec.ImageConfig
	for _, instruction := range []string{
		`CMD ["a", "b c"]`, "entrypoint run it", `ENV A="b c"`, "ENV D=", "LABEL x=y", "EXPOSE 80/tcp 81",
		`VOLUME ["/v"]`, "VOLUME /w /x", "STOPSIGNAL SIGINT", "USER me:us", "WORKDIR /d",
	} {
		if err := archive.Change(&c, instruction); err != nil {
			t.Errorf("%s: %v", instruction, err)
		}
	}
	want := ocispec.ImageConfig{
		Cmd: []string{"a", "b c"}, Entrypoint: []string{"/bin/sh", "-c", "run it"}, Env: []string{"A=b c", "D="},
		Labels: map[string]string{"x": "y"}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "81": {}},
		Volumes: map[string]struct{}{"/v": {}, "/w": {}, "/x": {}}, StopSignal: "SIGINT", User: "me:us", WorkingDir: "/d",
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for _, instruction := range []string{"", "CMD", "RUN x", "ENV x", "ENV =x", "LABEL x", "FROM x"} {
		if err := archive.Change(&c, instruction); err == nil || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: %v", instruction, err)
		}
	}
}
