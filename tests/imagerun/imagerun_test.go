// Package imagerun tests `vc-runtime run IMAGE`: containers from images, with no
// other engine.
package imagerun

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, nil)) }

// newEnv is a test's surroundings with an image store of its own.
func newEnv(t *testing.T) *testenv.Env {
	t.Helper()
	e := suite.New(t)
	e.NeedVM()
	e = e.Configured(testenv.Settings{"image.root": fmt.Sprintf("%q", e.Path("store"))})
	t.Cleanup(func() { leftovers(e) })
	return e
}

// leftovers checks that no container has left anything in the image store.
func leftovers(e *testenv.Env) {
	e.Helper()
	for _, dir := range []string{"bundles", "containers", "leases", "tmp", "trash"} {
		entries, err := os.ReadDir(e.Path("store/" + dir))
		if err != nil && !os.IsNotExist(err) {
			e.Error(err)
		}
		for _, entry := range entries {
			e.Errorf("left behind in the image store: %s/%s", dir, entry.Name())
		}
	}
}

// file is a member of a layer.
type file struct {
	name, content string
	mode          int64 // 0 is 0644, or 0755 for a folder
	uid           int
}

// layerOf makes the tar of a layer; a name that ends in "/" is a folder.
func layerOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f.content)), Uid: f.uid}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if f.mode != 0 {
			h.Mode = f.mode
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layout writes an image as a folder in the OCI layout.
func layout(e *testenv.Env, name string, config v1.ImageConfig, layers ...[]byte) string {
	e.Helper()
	dir := e.Path(name)
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		e.Fatal(err)
	}
	put := func(mediaType string, content []byte) v1.Descriptor {
		sum := sha256.Sum256(content)
		text := hex.EncodeToString(sum[:])
		if err := os.WriteFile(filepath.Join(blobs, text), content, 0o644); err != nil {
			e.Fatal(err)
		}
		return v1.Descriptor{MediaType: mediaType, Digest: digest.NewDigestFromEncoded(digest.SHA256, text), Size: int64(len(content))}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			e.Fatal(err)
		}
		return b
	}
	img := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, Config: config, RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{MediaType: v1.MediaTypeImageManifest}
	manifest.SchemaVersion = 2
	for _, l := range layers {
		d := put(v1.MediaTypeImageLayer, l)
		manifest.Layers = append(manifest.Layers, d)
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, d.Digest)
	}
	manifest.Config = put(v1.MediaTypeImageConfig, encode(img))
	index := v1.Index{Manifests: []v1.Descriptor{put(v1.MediaTypeImageManifest, encode(manifest))}}
	index.SchemaVersion = 2
	for file, content := range map[string][]byte{
		"index.json": encode(index), v1.ImageLayoutFile: encode(v1.ImageLayout{Version: v1.ImageLayoutVersion}),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil {
			e.Fatal(err)
		}
	}
	return "oci:" + dir
}

// base is the layer with the suite's busybox.
func base(e *testenv.Env) []byte {
	e.Helper()
	res := e.Run(e, testenv.Command{Path: testenv.Tool(e, "tar"), Args: []string{"-C", e.Base, "-cf", e.Path("base.tar"), "."}})
	if res.Code != 0 {
		e.Fatal(res)
	}
	b, err := os.ReadFile(e.Path("base.tar"))
	if err != nil {
		e.Fatal(err)
	}
	return b
}

// busybox is an image of one layer, in the store as "busybox".
func busybox(e *testenv.Env) {
	e.Helper()
	base(e)
	e.OK("image", "import", "--change", `CMD ["sh"]`, e.Path("base.tar"), "busybox")
}

// TestImage runs an image of three layers as its configuration says, and as the
// flags do.
func TestImage(t *testing.T) {
	e := newEnv(t)
	config := v1.ImageConfig{
		User: "user", Env: []string{"FROM=image", "PATH=/usr/bin:/bin"}, WorkingDir: "/srv/app",
		Entrypoint: []string{"sh", "-c"}, Cmd: []string{"id -un; pwd; echo $FROM; cat here; ls -a /gone /hidden; stat -c '%a %u' here"},
	}
	name := layout(e, "image", config,
		base(e),
		layerOf(t, file{name: "gone/"}, file{name: "gone/file"}, file{name: "gone/other"}, file{name: "hidden/"}, file{name: "hidden/old"},
			file{name: "srv/app/"}, file{name: "srv/app/here", content: "lower\n"}),
		layerOf(t, file{name: "gone/.wh.file"}, file{name: "hidden/.wh..wh..opq"}, file{name: "hidden/new"},
			file{name: "srv/app/here", content: "upper\n", mode: 0o4751, uid: 1000}))
	res := e.OK("run", "--network", "none", name)
	e.Equal("as the image says", res.Stdout, "user\n/srv/app\nimage\nupper\n/gone:\n.\n..\nother\n\n/hidden:\n.\n..\nnew\n4751 1000\n")

	e.Write("volume", "of the host\n")
	res = e.Do("run", "--network", "none", "--rm", "-e", "FROM=flag", "-w", "/", "-u", "0:5", "--hostname", "box", "--entrypoint", "", "-v", e.Path("volume")+":/etc/volume:ro",
		name, "sh", "-c", "id -u; id -g; pwd; echo $FROM; hostname; cat /etc/hostname /etc/volume; grep -c box /etc/hosts; echo x >/etc/volume || exit 7")
	e.Equal("as the flags say", res.Stdout, "0\n5\n/\nflag\nbox\nbox\nof the host\n1\n")
	e.Equal("exit code", res.Code, 7)
}

// TestImageIsNotWritten: what a container writes is gone with it.
func TestImageIsNotWritten(t *testing.T) {
	e := newEnv(t)
	busybox(e)
	for range 2 {
		e.OK("run", "--network", "none", "busybox", "sh", "-c", "[ ! -e /written ] && echo x >/written && rm /bin/vi && mv /etc/passwd /root")
	}
	res := e.Do("run", "--network", "none", "--storage-opt", "size=20m", "busybox", "sh", "-c", "dd if=/dev/zero of=/big bs=1M count=40 2>&1; echo $?")
	if !strings.Contains(res.Stdout, "No space left on device") || !strings.HasSuffix(res.Stdout, "1\n") {
		t.Errorf("40 MiB on a disk of 20: %s", res)
	}
	e.FailedWith(e.Do("run", "--network", "none", "--read-only", "busybox", "sh", "-c", "echo x >/x"), 1, "Read-only file system")
}

// TestImageFailures: one line, the code that docker has, nothing left.
func TestImageFailures(t *testing.T) {
	e := newEnv(t)
	busybox(e)
	e.Write("file", "x")
	tests := []struct {
		args string
		code int
		text string
	}{
		{"busybox nonesuch", 127, "executable file not found in $PATH"},
		{"busybox /etc/passwd", 126, "permission denied"},
		{"-u nobody-here busybox true", 125, `user "nobody-here"`},
		{"-e =x busybox true", 125, `environment variable "=x": expected NAME=VALUE`},
		{"-w rel busybox true", 125, `working directory "rel": expected an absolute path`},
		{"-v rel:/x busybox true", 125, "expected HOST-PATH:PATH"},
		{"--memory lots busybox true", 125, `--memory "lots": expected an amount`},
		{"--network host busybox true", 125, "cannot share the host's network"},
		{"--network nonesuch busybox true", 125, `network "nonesuch" is not configured`},
		{"--pull never absent true", 125, "image does not exist"},
		{"--pull sometimes busybox true", 125, `pull policy "sometimes": expected`},
		{"UPPER true", 125, "invalid image reference"},
		{"oci:/nowhere true", 125, "/nowhere"},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			args := append([]string{"run", "--network", "none"}, strings.Fields(tt.args)...)
			e := e.With(t)
			e.FailedWith(e.Do(args...), tt.code, tt.text)
			leftovers(e)
		})
	}
}

// TestDetachedImage walks a container that nobody waits for through its life;
// the image cannot be collected meanwhile.
func TestDetachedImage(t *testing.T) {
	e := newEnv(t)
	busybox(e)
	id := e.ID()
	e.Equal("what is printed", e.OK("run", "-d", "--name", id, "--network", "none", "busybox", "sh", "-c", "echo output; exec sleep 1000000").Stdout, id+"\n")
	e.FailedWith(e.Do("run", "--name", id, "--network", "none", "busybox"), 125, "already exists")
	e.OK("image", "rm", "--force", "busybox")
	e.OK("image", "gc")
	e.Equal("exec", e.OK("exec", id, "cat", "/etc/hostname").Stdout, id[:min(len(id), 64)]+"\n")
	var st struct{ Bundle string }
	if err := json.Unmarshal([]byte(e.OK("state", id).Stdout), &st); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 30*time.Second, func() error {
		if out := e.Read(filepath.Join(st.Bundle, "output.log")); out != "output\n" {
			return fmt.Errorf("output %q", out)
		}
		return nil
	})
	e.OK("kill", id, "KILL")
	e.OK("delete", id)
	e.OK("image", "gc")
	if out := e.OK("image", "ls").Stdout; strings.Contains(out, "busybox") {
		t.Errorf("the image is still there: %s", out)
	}
	layers, err := os.ReadDir(e.Path("store/layers"))
	if err != nil || len(layers) != 0 {
		t.Errorf("layers that nobody needs: %v, %v", layers, err)
	}
}

// TestDetachedImageIsRemoved: with --rm nothing is left when the process ends.
func TestDetachedImageIsRemoved(t *testing.T) {
	e := newEnv(t)
	busybox(e)
	id := e.ID()
	e.OK("run", "-d", "--rm", "--name", id, "--network", "none", "busybox", "sleep", "1")
	testenv.Eventually(t, time.Minute, func() error {
		if res := e.Do("state", id); res.Code == 0 {
			return fmt.Errorf("still there: %s", res)
		}
		if entries, _ := os.ReadDir(e.Path("store/bundles")); len(entries) > 0 {
			return fmt.Errorf("bundles: %v", entries)
		}
		return nil
	})
	e.FailedWith(e.Do("run", "-d", "--rm", "--network", "none", "busybox", "nonesuch"), 127, "executable file not found")
}

// TestKilledImage kills everything of a container; the next command gives back
// what it had.
func TestKilledImage(t *testing.T) {
	e := newEnv(t)
	busybox(e)
	id := e.ID()
	e.OK("run", "-d", "--name", id, "--network", "none", "busybox", "sleep", "1000000")
	pids := e.SandboxPids(id)
	e.Signal(pids.Monitor, unix.SIGKILL)
	testenv.Eventually(t, 30*time.Second, func() error {
		if st := e.State(id); st.Status != "stopped" {
			return fmt.Errorf("%+v", st)
		}
		return nil
	})
	// As if the command had been killed before its last step: the record goes,
	// and nobody runs the hook.
	path := filepath.Join(e.Root, "containers", id, "state.json")
	var record map[string]json.RawMessage
	if err := json.Unmarshal([]byte(e.Read(path)), &record); err != nil || record["hooks"] == nil {
		t.Fatalf("record without hooks: %v", err)
	}
	delete(record, "hooks")
	text, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	e.OK("delete", "--force", id)
	if _, err := os.Stat(e.Path("store/containers")); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(e.Path("store/bundles")); err != nil || len(left) != 1 {
		t.Fatalf("the bundle has gone without anybody's help: %v, %v", left, err)
	}
	e.OK("image", "gc")
	leftovers(e)
}

// TestImageInNetwork has a web server of a Debian image be reached over a CNI
// network, and by a port of the host.
func TestImageInNetwork(t *testing.T) {
	e := newEnv(t)
	e.CNINetwork("vct1", "10.96.0.0/24")
	debian(e)
	if out := e.OK("run", "--network", "none", "debian", "apt-get", "--version").Stdout; !strings.HasPrefix(out, "apt ") {
		t.Errorf("apt-get: %q", out)
	}
	id := e.ID()
	e.OK("run", "-d", "--name", id, "-p", "18081:8000", "-w", "/srv", "debian", "sh", "-c",
		"echo from python >index.html; exec python3 -m http.server 8000")
	for _, url := range []string{"http://10.96.0.2:8000/", "http://10.96.0.1:18081/"} {
		testenv.Eventually(t, 2*time.Minute, func() error {
			client := http.Client{Timeout: 30 * time.Second}
			defer client.CloseIdleConnections()
			res, err := client.Get(url)
			if err != nil {
				return err
			}
			defer res.Body.Close()
			if b, err := io.ReadAll(res.Body); err != nil || string(b) != "from python\n" {
				return fmt.Errorf("%s: got %q, %v", url, b, err)
			}
			return nil
		})
	}
	e.OK("kill", id, "KILL")
	e.OK("delete", id)
	if entries, err := filepath.Glob("/var/lib/cni/networks/testnet/10.*"); err != nil || len(entries) != 0 {
		t.Errorf("addresses that nobody has given back: %v, %v", entries, err)
	}
}

// debian is the whole distribution that the build has made, in the store.
func debian(e *testenv.Env) {
	e.Helper()
	tree, err := filepath.Abs("../../build/debian")
	if err == nil {
		_, err = os.Stat(tree)
	}
	if err != nil {
		e.Fatalf("needs `make debian`: %v", err)
	}
	res := e.Run(e, testenv.Command{Path: testenv.Tool(e, "tar"), Args: []string{"-C", tree, "--numeric-owner", "--xattrs", "-cf", e.Path("debian.tar"), "."}})
	if res.Code != 0 {
		e.Fatal(res)
	}
	e.OK("image", "import", "--change", `CMD ["bash"]`, e.Path("debian.tar"), "debian")
}
