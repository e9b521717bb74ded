package layers

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vc-runtime/vc-runtime/image/layer"
)

const (
	typeTar  = "application/vnd.oci.image.layer.v1.tar"
	typeGzip = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// stamp is a time with nanoseconds.
var stamp = time.Unix(1700000000, 123456789)

// entry is a tar entry; what is not given has a value that does not matter.
func entry(name string, kind byte, more ...func(*tar.Header)) tar.Header {
	h := tar.Header{Name: name, Typeflag: kind, Mode: 0o644, ModTime: stamp, Format: tar.FormatPAX}
	for _, f := range more {
		f(&h)
	}
	return h
}

// item is an entry and its data.
type item struct {
	tar.Header
	data string
}

// archive makes a tar archive.
func archive(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		if i.Typeflag == tar.TypeReg {
			i.Size = int64(len(i.data))
		}
		if err := w.WriteHeader(&i.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(i.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func compressed(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// unpack unpacks a layer into a file, and has fsck.erofs look at it.
func unpack(t testing.TB, blob []byte, mediaType string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "layer.erofs")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := layer.Unpack(t.Context(), layer.Blob{Reader: bytes.NewReader(blob), MediaType: mediaType}, f, layer.Limits{}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool(t, "fsck.erofs"), "--extract", name).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	return name
}

// TestMount: what the kernel shows of an image is what the layer says.
func TestMount(t *testing.T) {
	needRoot(t)
	xattrs := func(h *tar.Header) {
		h.PAXRecords = map[string]string{
			"SCHILY.xattr.user.kind":                "test",
			"SCHILY.xattr.security.capability":      "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.trusted.overlay.opaque":   "y",
			"SCHILY.xattr.trusted.overlay.redirect": "/etc",
		}
	}
	owner := func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 100000, 70000, 0o4755 }
	long := strings.Repeat("n", 255)
	target := strings.Repeat("t", 4000)
	big := strings.Repeat("0123456789abcdef", 20000)
	blob := archive(t,
		item{Header: entry("./", tar.TypeDir, func(h *tar.Header) { h.Mode = 0o755 })},
		item{Header: entry("dir/", tar.TypeDir, func(h *tar.Header) { h.Mode = 0o1777 }, xattrs)},
		item{Header: entry("dir/empty", tar.TypeReg)},
		item{Header: entry("dir/small", tar.TypeReg, xattrs), data: "small\n"},
		item{Header: entry("dir/block", tar.TypeReg), data: strings.Repeat("b", 4096)},
		item{Header: entry("dir/tail", tar.TypeReg), data: strings.Repeat("t", 4097)},
		item{Header: entry("dir/big", tar.TypeReg, owner), data: big},
		item{Header: entry("dir/link", tar.TypeLink, func(h *tar.Header) { h.Linkname = "dir/big" })},
		item{Header: entry("made/up/"+long, tar.TypeReg), data: "x"},
		item{Header: entry("sym", tar.TypeSymlink, func(h *tar.Header) { h.Linkname = "/etc/passwd" })},
		item{Header: entry("longsym", tar.TypeSymlink, func(h *tar.Header) { h.Linkname = target })},
		item{Header: entry("chr", tar.TypeChar, func(h *tar.Header) { h.Devmajor, h.Devminor = 10, 70000 })},
		item{Header: entry("blk", tar.TypeBlock, func(h *tar.Header) { h.Devmajor, h.Devminor = 259, 3 })},
		item{Header: entry("fifo", tar.TypeFifo)},
		item{Header: entry("dir/.wh.gone", tar.TypeReg)},
		item{Header: entry("made/.wh..wh..opq", tar.TypeReg)},
	)
	caps := " security.capability=0100000200040000000000000000000000000000 user.kind=74657374"
	at := " 0:0 1700000000.123456789"
	file := func(data string) string { return " " + sum([]byte(data)) }
	want := []string{
		`"." 40755` + at,
		`"blk" 60644` + at + ` 259,3 links 1`,
		`"chr" 20644` + at + ` 10,70000 links 1`,
		`"dir" 41777` + at + caps,
		`"dir/big" 104755 100000:70000 1700000000.123456789` + file(big) + ` links 2`,
		`"dir/block" 100644` + at + file(strings.Repeat("b", 4096)) + ` links 1`,
		`"dir/empty" 100644` + at + file("") + ` links 1`,
		`"dir/gone" 20000 0:0 0.000000000 0,0 links 1`,
		`"dir/link" 104755 100000:70000 1700000000.123456789` + file(big) + ` = "dir/big" links 2`,
		`"dir/small" 100644` + at + file("small\n") + ` links 1` + caps,
		`"dir/tail" 100644` + at + file(strings.Repeat("t", 4097)) + ` links 1`,
		`"fifo" 10644` + at + ` links 1`,
		`"longsym" 120644` + at + ` -> "` + target + `" links 1`,
		`"made" 40755 0:0 0.000000000 trusted.overlay.opaque=79`,
		`"made/up" 40755 0:0 0.000000000`,
		`"made/up/` + long + `" 100644` + at + file("x") + ` links 1`,
		`"sym" 120644` + at + ` -> "/etc/passwd" links 1`,
	}
	for _, blob := range []struct {
		kind string
		data []byte
	}{{typeTar, blob}, {typeGzip, compressed(t, blob)}} {
		var got []string
		mounted(t, unpack(t, blob.data, blob.kind), func(dir string) (err error) {
			got, err = listing(dir)
			return err
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}
