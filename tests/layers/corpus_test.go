package layers

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// corpus reads what fuzzing has found worth keeping.
func corpus(t *testing.T, fuzz string) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../../image/layer/testdata/fuzz/" + fuzz + "/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no corpus of %s: %v", fuzz, err)
	}
	inputs := make(map[string][]byte)
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, value, ok := strings.Cut(string(b), "\n[]byte(")
		value, end := strings.CutSuffix(value, ")\n")
		input, err := strconv.Unquote(value)
		if !ok || !end || err != nil {
			t.Fatalf("%s is no input of one []byte: %v", name, err)
		}
		inputs[filepath.Base(name)] = []byte(input)
	}
	return inputs
}

// valid tells whether all of the layers can be unpacked.
func valid(t *testing.T, layers ...[]byte) bool {
	t.Helper()
	for _, data := range layers {
		f := NewImage(t)
		_, err := layer.Unpack(t.Context(), layer.Blob{Reader: bytes.NewReader(data), MediaType: Tar}, f, layer.Limits{Bytes: 64 << 20})
		if err != nil && !errors.Is(err, layer.ErrInvalid) && !errors.Is(err, layer.ErrLimit) {
			t.Fatal(err)
		}
		if f.Close(); err != nil {
			return false
		}
	}
	return true
}

// TestTarCorpus: the kernel sees in the fuzzer's images what our reader does.
func TestTarCorpus(t *testing.T) {
	needRoot(t)
	mounts := 0
	for name, data := range corpus(t, "FuzzTar") {
		t.Run(name, func(t *testing.T) {
			FixChecksums(data)
			if valid(t, data) {
				shown(t, unpack(t, data))
				mounts++
			}
		})
	}
	if mounts < 10 {
		t.Errorf("only %d inputs are layers: not much of a test", mounts)
	}
}

// TestLayersCorpus: the kernel's overlay agrees with us about the fuzzer's
// layers.
func TestLayersCorpus(t *testing.T) {
	needRoot(t)
	mounts := 0
	for name, script := range corpus(t, "FuzzLayers") {
		t.Run(name, func(t *testing.T) {
			stack := Script(script)
			for _, items := range stack {
				if !valid(t, Archive(t, items...)) {
					return
				}
			}
			compareStack(t, stack)
			mounts++
		})
	}
	if mounts < 10 {
		t.Errorf("only %d inputs are layers: not much of a test", mounts)
	}
}
