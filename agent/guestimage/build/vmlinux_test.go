package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"os/exec"
	"testing"
)

// elfKernel stands for a kernel; only its first bytes are looked at.
var elfKernel = append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel"), 100)...)

// bzImage is a kernel file with a setup part of one sector, some code, and
// the payload at an offset within the protected-mode part.
func bzImage(payload []byte) []byte {
	const code = 32
	img := make([]byte, 2*512+code)
	img[offSetupSects] = 1
	copy(img[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(img[offProtocol:], 0x020f)
	binary.LittleEndian.PutUint32(img[offPayload:], code)
	binary.LittleEndian.PutUint32(img[offPayloadLength:], uint32(len(payload)))
	return append(append(img, payload...), "what follows"...)
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// byTool compresses as the kernel's build does: the size comes after.
func byTool(t *testing.T, tool string, data []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("SKIPPED: no %s on this machine", tool)
	}
	out, err := command{args: []string{tool, "-c"}, stdin: data}.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return binary.LittleEndian.AppendUint32(out, uint32(len(data)))
}

func TestVmlinux(t *testing.T) {
	for _, tool := range []string{"gzip", "xz", "zstd"} {
		t.Run(tool, func(t *testing.T) {
			payload := gzipped(t, elfKernel)
			if tool != "gzip" {
				payload = byTool(t, tool, elfKernel)
			}
			got, err := vmlinux(context.Background(), bzImage(payload))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, elfKernel) {
				t.Errorf("kernel has %d bytes, want %d", len(got), len(elfKernel))
			}
		})
	}
}

func TestVmlinuxRefuses(t *testing.T) {
	good := bzImage(gzipped(t, elfKernel))
	altered := func(change func(img []byte)) []byte {
		img := bytes.Clone(good)
		change(img)
		return img
	}
	wrongSize := gzipped(t, elfKernel)
	wrongSize[len(wrongSize)-4]++
	for name, img := range map[string][]byte{
		"an empty file":         nil,
		"an ELF file":           elfKernel,
		"an old protocol":       altered(func(img []byte) { binary.LittleEndian.PutUint16(img[offProtocol:], 0x0207) }),
		"a payload past end":    altered(func(img []byte) { binary.LittleEndian.PutUint32(img[offPayloadLength:], 1<<31) }),
		"no payload":            altered(func(img []byte) { binary.LittleEndian.PutUint32(img[offPayloadLength:], 0) }),
		"an unknown payload":    bzImage([]byte("0123456789")),
		"a payload of no ELF":   bzImage(gzipped(t, []byte("something else"))),
		"another size recorded": bzImage(wrongSize),
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := vmlinux(context.Background(), img); !errors.Is(err, errKernel) {
				t.Errorf("vmlinux: %v, want %v", err, errKernel)
			}
		})
	}
}
