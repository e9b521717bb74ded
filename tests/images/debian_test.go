package images

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image"
	"github.com/vc-runtime/vc-runtime/image/registrytest"
	"github.com/vc-runtime/vc-runtime/image/store"
)

// debianRegistry starts Debian's registry in our network namespace, and gives
// its address.
func debianRegistry(t *testing.T) string {
	t.Helper()
	const addr = "127.0.0.1:5000"
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %q}\n", dir, addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool(t, "docker-registry"), "serve", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(log)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for said.Scan() {
		if strings.Contains(said.Text(), "listening on") {
			go io.Copy(io.Discard, log) // ends with the process
			return addr
		}
	}
	t.Fatalf("the registry has ended: %v", said.Err())
	return ""
}

// push sends content to a registry.
func push(t *testing.T, addr, repository, tag string, img *registrytest.Image) {
	t.Helper()
	send := func(method, target, mediaType string, text []byte) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, target, bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", mediaType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			text, _ := io.ReadAll(resp.Body)
			t.Fatalf("%s %s: %s: %s", method, target, resp.Status, text)
		}
		return resp
	}
	base := "http://" + addr + "/v2/" + repository
	blobs := [][]byte{img.Config}
	for _, l := range img.Layers {
		blobs = append(blobs, l.Blob)
	}
	for _, text := range blobs {
		u, err := url.Parse(send(http.MethodPost, base+"/blobs/uploads/", "", nil).Header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		q := u.Query()
		q.Set("digest", digest.FromBytes(text).String())
		u.RawQuery = q.Encode()
		send(http.MethodPut, u.String(), "application/octet-stream", text)
	}
	send(http.MethodPut, base+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", img.Manifest)
}

// A real registry, and the whole service: pull, carry on, export, import, remove.
func TestDebianRegistry(t *testing.T) {
	addr := debianRegistry(t)
	img := sample(t)
	push(t, addr, "some/image", "v1", img)
	dir := t.TempDir()
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("[image]\nroot = %q\nauth_file = %q\n", dir+"/images", dir+"/none")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := image.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	// Half of a layer is there from another time.
	layer := img.Layers[0].Blob
	partial := filepath.Join(dir, "images/partial", digest.FromBytes(layer).Encoded())
	if err := os.WriteFile(partial, layer[:len(layer)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	name := addr + "/some/image:v1"
	got, lease, err := s.Get(t.Context(), name, image.Missing, image.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID() != digest.FromBytes(img.Config) || len(got.Layers) != 2 {
		t.Errorf("got %+v", got)
	}
	archive := filepath.Join(dir, "x.tar")
	f, err := os.Create(archive)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Export(t.Context(), name, f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), got.ID().Encoded()[:12], false); err != nil {
		t.Error(err)
	}
	if _, err := s.Find(name); err == nil {
		t.Error("the image is still there")
	}
	if err := lease.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Store.GC(t.Context(), store.GCOptions{}); err != nil {
		t.Error(err)
	}
	again, lease, err := s.Import(t.Context(), "oci-archive:"+archive, "", image.PullOptions{})
	if err != nil || again.Name != name || again.Manifest != got.Manifest {
		t.Fatalf("imported %+v, %v", again, err)
	}
	defer lease.Close()
	if problems, err := s.Fsck(t.Context(), true, false); err != nil || len(problems) > 0 {
		t.Errorf("fsck: %v, %v", problems, err)
	}
}
