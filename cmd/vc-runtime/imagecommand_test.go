package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// imageTool runs image commands on a store of the test's.
type imageTool struct {
	t      *testing.T
	dir    string
	config string
}

func newImageTool(t *testing.T) *imageTool {
	t.Helper()
	tool := &imageTool{t: t, dir: t.TempDir()}
	tool.config = filepath.Join(tool.dir, "config.toml")
	text := fmt.Sprintf("[image]\nroot = %q\nsync = \"off\"\nauth_file = %q\n", filepath.Join(tool.dir, "images"), filepath.Join(tool.dir, "none"))
	if err := os.WriteFile(tool.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return tool
}

// run runs `image args...` as root and gives exit code, stdout and stderr.
func (i *imageTool) run(args ...string) (int, string, string) {
	i.t.Helper()
	dir := i.t.TempDir()
	var files [3]*os.File
	for n, name := range []string{"in", "out", "err"} {
		var err error
		if files[n], err = os.Create(filepath.Join(dir, name)); err != nil {
			i.t.Fatal(err)
		}
		defer files[n].Close()
	}
	p := &program{stdin: files[0], stdout: files[1], stderr: files[2]}
	code := p.run(append([]string{"vc-runtime", "--config", i.config, "image"}, args...))
	return code, read(i.t, files[1].Name()), read(i.t, files[2].Name())
}

func (i *imageTool) must(args ...string) string {
	i.t.Helper()
	code, out, stderr := i.run(args...)
	if code != 0 {
		i.t.Fatalf("image %q: exit code %d: %s", args, code, stderr)
	}
	return out
}

// rootfs writes a root file system into a tar.
func (i *imageTool) rootfs() string {
	i.t.Helper()
	path := filepath.Join(i.dir, "rootfs.tar.gz")
	layer := registrytest.Files(i.t, "gzip", map[string]string{
		"bin/": "", "bin/sh": "#!", "etc/": "", "etc/passwd": "web:x:33:34::/:/bin/sh\n", "etc/group": "web:x:34:\nmore:x:35:web\n",
	})
	if err := os.WriteFile(path, layer.Blob, 0o600); err != nil {
		i.t.Fatal(err)
	}
	return path
}

func TestImageCommands(t *testing.T) {
	tool := newImageTool(t)
	if out := tool.must("ls", "--format", "json"); out != "[]\n" {
		t.Errorf("no images are %q", out)
	}
	// Flags may stand anywhere.
	id := strings.TrimSpace(tool.must("import", tool.rootfs(), "my/web:1", "--change", `CMD ["/bin/sh", "-c", "x, y"]`, "--change", "USER web", "--quiet"))
	if !strings.HasPrefix(id, "sha256:") {
		t.Fatalf("import says %q", id)
	}
	if out := tool.must("ls"); !strings.Contains(out, "my/web:1") || !strings.Contains(out, id[7:19]) {
		t.Errorf("ls: %s", out)
	}
	if out := tool.must("ls", "-q"); strings.TrimSpace(out) != id {
		t.Errorf("ls -q: %s", out)
	}
	var reports []imageReport
	if err := json.Unmarshal([]byte(tool.must("inspect", "my/web:1", id[7:15])), &reports); err != nil || len(reports) != 2 {
		t.Fatalf("inspect: %v, %v", reports, err)
	}
	if r := reports[1]; r.ID != id || r.Name != "docker.io/my/web:1" || len(r.LayerFiles) != 1 || r.UnpackedSize == 0 ||
		!strings.Contains(string(r.Config), `"x, y"`) {
		t.Errorf("inspect: %+v", r)
	}
	if _, err := os.Stat(reports[0].LayerFiles[0]); err != nil {
		t.Error(err)
	}
	archive := filepath.Join(tool.dir, "web.tar")
	tool.must("export", id, "oci-archive:"+archive)
	if got := tool.must("rm", "my/web:1"); got != "docker.io/my/web:1\n" {
		t.Errorf("rm: %q", got)
	}
	if _, err := os.Stat(reports[0].LayerFiles[0]); !os.IsNotExist(err) {
		t.Errorf("rm leaves the layer: %v", err)
	}
	if again := strings.TrimSpace(tool.must("import", "oci-archive:"+archive)); again != id {
		t.Errorf("it comes back as %s", again)
	}
	tool.must("import", "oci-archive:"+archive, "other:2")
	if out := tool.must("fsck", "--content", "--format", "json"); out != "[]\n" {
		t.Errorf("fsck: %s", out)
	}
	if got := tool.must("rm", id[7:20]); got != "docker.io/library/other:2\ndocker.io/my/web:1\n" {
		t.Errorf("rm by id: %q", got)
	}
	tool.must("pull", "-q", "oci-archive:"+archive)
	if out := tool.must("prune"); !strings.Contains(out, "removed 0 blobs, 0 layers") {
		t.Errorf("prune: %s", out)
	}
	if out := tool.must("prune", "--all"); !strings.Contains(out, "oci-archive:"+archive) || !strings.Contains(out, "removed 3 blobs, 1 layers") {
		t.Errorf("prune --all: %s", out)
	}
	if out := tool.must("gc"); !strings.HasPrefix(out, "removed 0 blobs, 0 layers, 0 partial downloads, 0 pins, 0 leases") {
		t.Errorf("gc: %s", out)
	}
}

func TestImagePull(t *testing.T) {
	tool, r := newImageTool(t), registrytest.New(t)
	img := registrytest.NewImage(t, []registrytest.Layer{registrytest.Files(t, "gzip", map[string]string{"a": "b"})})
	r.Add("x", "latest", img)
	_, out, stderr := tool.run("pull", r.Host()+"/x", "--progress=json")
	if !strings.HasPrefix(out, "sha256:") || strings.Count(out, "\n") != 1 {
		t.Errorf("pull says %q, %s", out, stderr)
	}
	var phases []string
	for line := range strings.Lines(stderr) {
		var e struct {
			Phase, Digest string
			Total         int64
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		phases = append(phases, e.Phase)
	}
	if got := strings.Join(phases, " "); got != "resolved waiting downloading downloaded unpacking done pulled" {
		t.Errorf("phases %s", got)
	}
	if _, _, stderr := tool.run("pull", r.Host()+"/x"); stderr != "" {
		t.Errorf("without a terminal it says %q", stderr)
	}
	if _, _, stderr := tool.run("pull", r.Host()+"/x", "--progress", "plain"); !strings.Contains(stderr, " done\n") {
		t.Errorf("plain: %q", stderr)
	}
	if _, _, stderr := tool.run("pull", r.Host()+"/x", "--progress", "bar"); !strings.Contains(stderr, "1 of 1 layers") {
		t.Errorf("bar: %q", stderr)
	}
}

func TestImageErrors(t *testing.T) {
	tool := newImageTool(t)
	path := tool.rootfs()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"wat"}, "unknown sub-command"},
		{[]string{"ls", "x"}, "requires exactly 0 argument"},
		{[]string{"ls", "--format", "x"}, errFormat.Error()},
		{[]string{"inspect", "none"}, store.ErrNotExist.Error()},
		{[]string{"inspect", strings.Repeat("a", 64)}, store.ErrNotExist.Error()},
		{[]string{"inspect", "UPPER"}, "invalid image reference"},
		{[]string{"rm", "none"}, store.ErrNotExist.Error()},
		{[]string{"import", path}, "wants a name"},
		{[]string{"import", path, "a", "--change", "RUN x"}, "expected CMD"},
		{[]string{"import", path, "a@sha256:" + strings.Repeat("a", 64)}, "expected a name"},
		{[]string{"import", "oci:/none", "--change", "USER x"}, "--change"},
		{[]string{"import", "oci:/none"}, "no such file"},
		{[]string{"pull", "x", "--progress", "loud"}, "expected auto, bar, plain, json or quiet"},
		{[]string{"pull", "x", "--platform", "amd64"}, "expected OS/ARCHITECTURE"},
		{[]string{"export", "none", filepath.Join(tool.dir, "x")}, store.ErrNotExist.Error()},
		{[]string{"unpack", "none", tool.dir}, store.ErrNotExist.Error()},
	} {
		code, _, stderr := tool.run(c.args...)
		if code != exitFailure || !strings.Contains(stderr, c.want) {
			t.Errorf("image %q: exit code %d, %q; want %q", c.args, code, stderr, c.want)
		}
	}
	if entries, err := os.ReadDir(tool.dir); err != nil || len(entries) != 3 { // configuration, store, rootfs
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// The bundle is one that any runtime takes.
func TestImageUnpack(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: giving files away needs root")
	}
	tool := newImageTool(t)
	tool.must("import", tool.rootfs(), "web", "--change", "USER web", "--change", "WORKDIR /etc")
	dir := filepath.Join(tool.dir, "bundle")
	tool.must("unpack", "web", dir)
	var spec specs.Spec
	if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, specConfig))), &spec); err != nil {
		t.Fatal(err)
	}
	if u := spec.Process.User; u.UID != 33 || u.GID != 34 || len(u.AdditionalGids) != 1 || u.AdditionalGids[0] != 35 ||
		spec.Process.Cwd != "/etc" || spec.Root.Path != "rootfs" || spec.Version != "1.0.2" {
		t.Errorf("version %q, process %+v", spec.Version, spec.Process)
	}
	if got := read(t, filepath.Join(dir, "rootfs/bin/sh")); got != "#!" {
		t.Errorf("rootfs: %q", got)
	}
	if code, _, stderr := tool.run("unpack", "web", dir); code == 0 || !strings.Contains(stderr, "already") {
		t.Errorf("a second time: %d, %s", code, stderr)
	}
	tool.must("import", tool.rootfs(), "nobody", "--change", "USER nobody-there")
	if code, _, stderr := tool.run("unpack", "nobody", dir+"2"); code == 0 || !strings.Contains(stderr, "nobody-there") {
		t.Errorf("an unknown user: %d, %s", code, stderr)
	}
}

func TestBytesText(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 92_884_590: "92.9MB", 1_500_000_000: "1.5GB", 5e15: "5e+03TB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d is %q, want %q", n, got, want)
		}
	}
}
