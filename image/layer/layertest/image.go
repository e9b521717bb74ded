package layertest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vc-runtime/vc-runtime/image/erofs"
)

// NewImage makes an empty file for an image, which goes with the test.
func NewImage(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "layer.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// OpenImage opens and checks an image.
func OpenImage(t testing.TB, f *os.File) *erofs.Image {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := erofs.Open(f, st.Size())
	if err == nil {
		err = erofs.Check(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}
