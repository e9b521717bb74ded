package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/agent/guestimage"
)

func TestVerifyOnce(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	file := func(name string) guestimage.File {
		content := []byte("content of " + name)
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(content)
		return guestimage.File{Name: name, Size: int64(len(content)), SHA256: hex.EncodeToString(sum[:])}
	}
	m := guestimage.Manifest{
		Version: guestimage.ManifestVersion, Protocol: api.ProtocolVersion, ImageID: "id",
		Kernel: guestimage.Kernel{File: file("vmlinux")}, Initrd: file("initrd"),
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, guestimage.ManifestFile), raw, 0o600); err != nil {
		t.Fatal(err)
	}
	image, err := guestimage.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := verifyOnce(cache, image); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(cache, verifiedName)); err != nil {
		t.Error("it is not remembered:", err)
	}
	// The same size, another content: only the digest tells.
	if err := os.WriteFile(filepath.Join(dir, "initrd"), []byte("CONTENT of initrd"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := verifyOnce(cache, image); !errors.Is(err, guestimage.ErrMismatch) {
		t.Errorf("a changed initrd gives %v, want ErrMismatch", err)
	}
}
