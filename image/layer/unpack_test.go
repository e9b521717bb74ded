package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/erofs"
	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

func blobOf(data []byte, mediaType string) layer.Blob {
	return layer.Blob{Reader: bytes.NewReader(data), MediaType: mediaType}
}

// newFile makes an empty file that goes with the test.
// unpack unpacks an uncompressed layer that must be right.
func unpack(t testing.TB, data []byte) (*os.File, layer.Result) {
	t.Helper()
	f := NewImage(t)
	res, err := layer.Unpack(t.Context(), blobOf(data, Tar), f, layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if want := digest.FromBytes(data); len(res.DiffIDs) != 1 || res.DiffIDs[0] != want {
		t.Errorf("diff ids %v, want %s", res.DiffIDs, want)
	}
	return f, res
}

func brief(t testing.TB, m *erofs.Image) []string {
	t.Helper()
	lines, err := Brief(m)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestSemantics: what names, links, whiteouts and duplicates of one layer mean.
// want is nil where the layer must be refused.
func TestSemantics(t *testing.T) {
	for _, c := range []struct {
		name  string
		items []Item
		want  []string
	}{
		// Names.
		{"no entry", nil, []string{}},
		{"only the root", []Item{Dir("./")}, []string{}},
		{"plain", []Item{Dir("a/"), File("a/b", "1")}, []string{"a/", "a/b 1"}},
		{"dots and slashes", []Item{Dir("./a/"), File(".//a/./b", "1")}, []string{"a/", "a/b 1"}},
		{"missing folders", []Item{File("a/b/c", "1")}, []string{"a/", "a/b/", "a/b/c 1"}},
		{"absolute", []Item{File("/etc/passwd", "1"), File("//x", "2")}, []string{"etc/", "etc/passwd 1", "x 2"}},
		{"dots within", []Item{File("a/../b", "1")}, []string{"b 1"}},
		{"above the root", []Item{File("../b", "1")}, nil},
		{"far above the root", []Item{File("a/../../../etc/passwd", "1")}, nil},
		{"absolute above the root", []Item{File("/../b", "1")}, nil},
		{"the root as a file", []Item{File(".", "1")}, nil},
		{"the root as a symbolic link", []Item{Symlink("./", "/etc")}, nil},
		{"the root as a hard link", []Item{File("a", "1"), Link("/", "a")}, nil},
		{"name of 255 bytes", []Item{File(strings.Repeat("n", 255), "1")}, []string{strings.Repeat("n", 255) + " 1"}},
		{"name of 256 bytes", []Item{File(strings.Repeat("n", 256), "1")}, nil},
		{"folder of 256 bytes", []Item{File(strings.Repeat("n", 256)+"/a", "1")}, nil},
		{"path of 4097 bytes", []Item{File(strings.Repeat("/aa", 1366)[1:], "1")}, nil},
		{"deeper than the limit", []Item{File(strings.Repeat("a/", 513)+"b", "1")}, nil},
		{"as deep as the limit", deep(512), deepLines(512)},
		{"deeper by a symbolic link", append(deep(512), Symlink("l", strings.Repeat("a/", 512)), Dir("l/x")), nil},
		{"deeper by a folder that is named", append(deep(512), Dir(strings.Repeat("a/", 513))), nil},

		// Symbolic links.
		{"symbolic links are only names", []Item{Symlink("a", "/etc/passwd"), Symlink("b", "../../..")},
			[]string{"a -> /etc/passwd", "b -> ../../.."}},
		{"write through a symbolic link", []Item{Symlink("a", "/etc"), File("a/passwd", "1")},
			[]string{"a -> /etc", "etc/", "etc/passwd 1"}},
		{"write through a link that leads out", []Item{Symlink("a", "../../../b"), File("a/c", "1")},
			[]string{"a -> ../../../b", "b/", "b/c 1"}},
		{"write through two links", []Item{Dir("x/y/"), Symlink("a", "x"), Symlink("x/b", "../x/y"), File("a/b/c", "1")},
			[]string{"a -> x", "x/", "x/b -> ../x/y", "x/y/", "x/y/c 1"}},
		{"write over a symbolic link", []Item{Symlink("a", "b"), File("a", "1")}, []string{"a 1"}},
		{"folder over a symbolic link", []Item{Symlink("a", "b"), Dir("a/"), File("a/c", "1")}, []string{"a/", "a/c 1"}},
		{"symbolic links in a circle", []Item{Symlink("a", "b"), Symlink("b", "a"), File("a/c", "1")}, nil},
		{"symbolic link to itself", []Item{Symlink("a", "a/a"), File("a/c", "1")}, nil},
		{"symbolic link to nothing", []Item{Symlink("a", "")}, nil},
		{"symbolic link of 4095 bytes", []Item{Symlink("a", strings.Repeat("t", 4095))}, []string{"a -> " + strings.Repeat("t", 4095)}},
		{"symbolic link of 4096 bytes", []Item{Symlink("a", strings.Repeat("t", 4096))}, nil},

		// Hard links.
		{"hard links", []Item{File("a", "1"), Link("b", "a"), Link("d/c", "/b")}, []string{"a 1", "b = a", "d/", "d/c = a"}},
		{"hard link to what is missing", []Item{Link("b", "a")}, nil},
		{"hard link to what comes later", []Item{Link("b", "a"), File("a", "1")}, nil},
		{"hard link out", []Item{Link("b", "../../etc/passwd")}, nil},
		{"hard link to the host", []Item{Link("b", "/etc/passwd")}, nil},
		{"hard link through a symbolic link", []Item{Dir("d/"), File("d/a", "1"), Symlink("s", "d"), Link("b", "s/a")},
			[]string{"b 1", "d/", "d/a = b", "s -> d"}},
		{"hard link to a symbolic link", []Item{Symlink("s", "/etc"), Link("b", "s")}, []string{"b -> /etc", "s = b"}},
		{"hard link to a folder", []Item{Dir("a/"), Link("b", "a")}, nil},
		{"hard link to the root", []Item{Link("b", "/")}, nil},
		{"hard link to a whiteout", []Item{File(".wh.a", ""), Link("b", "a")}, nil},
		{"hard link to a whiteout's marker", []Item{File(".wh.a", ""), Link("b", ".wh.a")}, nil},
		{"hard link to itself", []Item{File("a", "1"), Link("a", "a")}, []string{"a 1"}},
		{"hard link, then another file", []Item{File("a", "1"), Link("b", "a"), File("a", "2")}, []string{"a 2", "b 1"}},
		{"hard link under AUFS", []Item{Dir(".wh..wh.plnk/"), File(".wh..wh.plnk/1.2", "x"), Link("a", ".wh..wh.plnk/1.2")}, []string{"a x"}},
		{"hard link to what AUFS lacks", []Item{Link("a", ".wh..wh.plnk/1.2")}, nil},

		// Duplicates.
		{"file twice", []Item{File("a", "1"), File("a", "2")}, []string{"a 2"}},
		{"folder twice", []Item{Dir("a/"), File("a/b", "1"), Dir("a/")}, []string{"a/", "a/b 1"}},
		{"file, then folder", []Item{File("a", "1"), Dir("a/"), File("a/b", "2")}, []string{"a/", "a/b 2"}},
		{"folder, then file", []Item{Dir("a/"), File("a/b", "2"), File("a", "1")}, []string{"a 1"}},
		{"folder, file, folder", []Item{Dir("a/"), File("a/b", "1"), File("a", "2"), Dir("a/")}, []string{"a/"}},
		{"file as a folder", []Item{File("a", "1"), File("a/b", "2")}, nil},

		// Whiteouts.
		{"whiteout", []Item{Dir("a/"), File("a/.wh.b", "")}, []string{"a/", "a/b whiteout"}},
		{"whiteout by a folder", []Item{Dir(".wh.b/")}, []string{"b whiteout"}},
		{"whiteout in no folder", []Item{File("a/.wh.b", "")}, []string{"a/", "a/b whiteout"}},
		{"whiteout twice", []Item{File(".wh.b", ""), File(".wh.b", "")}, []string{"b whiteout"}},
		{"two whiteouts", []Item{File(".wh.b", ""), File(".wh.c", "")}, []string{"b whiteout", "c whiteout"}},
		{"whiteout, then file", []Item{File(".wh.b", ""), File("b", "1")}, []string{"b 1"}},
		{"file, then whiteout", []Item{File("b", "1"), File(".wh.b", "")}, []string{"b 1"}},
		{"whiteout, then folder", []Item{File(".wh.b", ""), Dir("b/"), File("b/c", "1")}, []string{"b/ opaque", "b/c 1"}},
		{"folder, then whiteout", []Item{Dir("b/"), File("b/c", "1"), File(".wh.b", "")}, []string{"b/ opaque", "b/c 1"}},
		{"whiteout, then a folder nobody names", []Item{File(".wh.b", ""), File("b/c", "1")}, []string{"b/ opaque", "b/c 1"}},
		{"whiteout, file, folder", []Item{File(".wh.b", ""), File("b", "1"), Dir("b/")}, []string{"b/ opaque"}},
		{"file, then folder: not opaque", []Item{File("b", "1"), Dir("b/")}, []string{"b/"}},
		{"opaque, then children", []Item{Dir("a/"), File("a/.wh..wh..opq", ""), File("a/b", "1")}, []string{"a/ opaque", "a/b 1"}},
		{"children, then opaque", []Item{Dir("a/"), File("a/b", "1"), File("a/.wh..wh..opq", "")}, []string{"a/ opaque", "a/b 1"}},
		{"opaque, then the folder", []Item{File("a/.wh..wh..opq", ""), Dir("a/")}, []string{"a/ opaque"}},
		{"opaque root", []Item{File(".wh..wh..opq", ""), File("a", "1")}, []string{"./ opaque", "a 1"}},
		{"opaque, then a file in its place", []Item{File("a/.wh..wh..opq", ""), File("a", "1")}, []string{"a 1"}},
		{"whiteouts in an opaque folder", []Item{Dir("a/"), File("a/.wh.b", ""), File("a/.wh..wh..opq", ""), File("a/c/.wh.d", ""), File("e/.wh.f", "")},
			[]string{"a/ opaque", "a/c/", "e/", "e/f whiteout"}},
		{"device 0:0", []Item{Node("b", tar.TypeChar, 0, 0)}, []string{"b whiteout"}},
		{"device 0:0 and a folder", []Item{Dir("b/"), Node("b", tar.TypeChar, 0, 0)}, []string{"b/ opaque"}},
		{"whiteout of nothing", []Item{File(".wh.", "")}, nil},
		{"whiteout of the folder", []Item{File("a/.wh..", "")}, nil},
		{"whiteout of the folder above", []Item{File("a/.wh...", "")}, nil},
		{"whiteout of three dots", []Item{File("a/.wh....", "")}, []string{"a/", "a/... whiteout"}},
		{"whiteout of a whiteout", []Item{File("a/.wh..wh.b", "")}, nil},
		{"whiteout's name as a folder", []Item{File(".wh.a/b", "1")}, nil},
		{"AUFS' own", []Item{File(".wh..wh.aufs", ""), Dir(".wh..wh.orph/"), File(".wh..wh.orph/x", "1")}, []string{}},

		// Types.
		{"devices and pipes", []Item{Node("b", tar.TypeBlock, 8, 1), Node("c", tar.TypeChar, 4095, 1048575), Node("p", tar.TypeFifo, 0, 0)},
			[]string{"b 60000 8,1", "c 20000 4095,1048575", "p 10000 0,0"}},
		{"device number too large", []Item{Node("c", tar.TypeChar, 4096, 0)}, nil},
		{"minor number too large", []Item{Node("c", tar.TypeBlock, 1, 1<<20)}, nil},
		{"block device 0:0", []Item{Node("c", tar.TypeBlock, 0, 0)}, []string{"c 60000 0,0"}},
		{"unknown type", []Item{Entry("a", 'Z', "")}, nil},
		{"owner of more than 32 bits", []Item{File("a", "", Owner(1<<32, 0))}, nil},
		{"owner of 32 ones", []Item{File("a", "", Owner(0, 1<<32-1))}, nil},
		{"names that are not UTF-8", []Item{entryGNU("a\xff\xfe")}, []string{"a\xff\xfe "}},
		{"odd names", []Item{File("a\nb", "1"), File(" ", "2"), File("\\", "3"), File("...", "4")}, []string{"  2", "... 4", "\\ 3", "a\nb 1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := Archive(t, c.items...)
			if c.want == nil {
				f := NewImage(t)
				_, err := layer.Unpack(t.Context(), blobOf(data, Tar), f, layer.Limits{})
				if !errors.Is(err, layer.ErrInvalid) && !errors.Is(err, layer.ErrLimit) {
					t.Errorf("error %v, want ErrInvalid or ErrLimit", err)
				}
				notAnImage(t, f)
				return
			}
			f, res := unpack(t, data)
			if diff := cmp.Diff(c.want, append([]string{}, brief(t, OpenImage(t, f))...)); diff != "" {
				t.Error(diff)
			}
			if opaque := len(c.want) > 0 && c.want[0] == "./ opaque"; opaque != res.OpaqueRoot {
				t.Errorf("OpaqueRoot is %v", res.OpaqueRoot)
			}
		})
	}
}

// deep makes that many folders in each other.
func deep(depth int) []Item { return []Item{Dir(strings.Repeat("a/", depth))} }

func deepLines(depth int) (lines []string) {
	for n := range depth {
		lines = append(lines, strings.Repeat("a/", n+1))
	}
	return lines
}

// entryGNU makes a file with a name that PAX does not allow.
func entryGNU(name string) Item {
	i := File(name, "")
	i.Format = tar.FormatGNU
	return i
}

// notAnImage checks that nothing could take the file for an image.
func notAnImage(t *testing.T, f *os.File) {
	t.Helper()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := erofs.Open(f, st.Size()); err == nil {
		t.Error("what is left of a refused layer is an image")
	}
}

// TestAttributes: owners, modes, times and extended attributes.
func TestAttributes(t *testing.T) {
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	f, res := unpack(t, Archive(t,
		Dir("./", Mode(0o750), Owner(1, 2)),
		File("later", "", Mode(0o4711), Owner(1<<32-2, 70000), Xattr("user.b", "2"), Xattr("user.a", "1")),
		File("ping", "", Xattr("security.capability", capability), Xattr("trusted.overlay.opaque", "y"), Xattr("trusted.overlay.metacopy", "")),
		File("dropped", "", Xattr("btrfs.compression", "zstd"), Xattr("user.", "x"), Xattr("user."+strings.Repeat("n", 300), "x"), Record("VENDOR.thing", "x")),
		Dir("first/", Mode(0o1777)),
		Dir("first/", Mode(0o700), Owner(3, 4), At(Time.Add(1))),
		Symlink("s", "x", Owner(5, 6), At(time.Unix(-5, 7))),
	))
	got, err := Listing(OpenImage(t, f))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`"." 40750 1:2 1700000000.123456789`,
		`"dropped" 100644 0:0 1700000000.123456789 0 e3b0c44298fc links 1`,
		`"first" 40700 3:4 1700000000.123456790`,
		`"later" 104711 4294967294:70000 1700000000.123456789 0 e3b0c44298fc links 1 user.a=31 user.b=32`,
		`"ping" 100644 0:0 1700000000.123456789 0 e3b0c44298fc links 1 security.capability=0100000200040000000000000000000000000000`,
		`"s" 120777 5:6 -5.000000007 -> "x" links 1`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if res.DroppedXattrs != 3 {
		t.Errorf("%d extended attributes dropped, want 3", res.DroppedXattrs)
	}
}

// TestImplied: which folders inherit from the layers below, and can.
func TestImplied(t *testing.T) {
	for _, c := range []struct {
		name  string
		items []Item
		want  []string
	}{
		{"nothing", nil, []string{"/"}},
		{"all are named", []Item{Dir("./"), Dir("a/"), Dir("a/b/"), File("a/b/c", "")}, nil},
		{"none is named", []Item{File("a/b/c", "")}, []string{"/", "/a/", "/a/b/"}},
		{"named later", []Item{File("a/b/c", ""), Dir("a/"), Dir("./")}, []string{"/a/b/"}},
		{"in an opaque folder", []Item{Dir("./"), File("a/.wh..wh..opq", ""), File("a/b/c", "")}, []string{"/a/"}},
		{"in place of a whiteout", []Item{Dir("./"), File(".wh.a", ""), File("a/b/c", "")}, nil},
		{"whiteout afterwards", []Item{Dir("./"), File("a/b/c", ""), File(".wh.a", "")}, nil},
		{"replaced", []Item{Dir("./"), File("a/b", ""), File("a", "")}, nil},
	} {
		f, res := unpack(t, Archive(t, c.items...))
		if diff := cmp.Diff(c.want, res.Implied); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
		if err := layer.Inherit(f, res.Size, res.Implied, []*erofs.Image{OpenImage(t, f)}); err != nil {
			t.Errorf("%s: from itself: %v", c.name, err)
		}
		OpenImage(t, f)
	}
}

// TestCompression: members, frames, trailing bytes and damage.
func TestCompression(t *testing.T) {
	plain := Archive(t, File("a", strings.Repeat("1234567890", 10000)))
	packed := Compress(t, plain)
	zw, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	zpacked := zw.EncodeAll(plain, nil)
	half := len(plain) / 2
	skippable := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z'}
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, c := range []struct {
		name, mediaType string
		blob            []byte
		stream          []byte // what the diff id is of; nil: refused
	}{
		{"plain", Tar, plain, plain},
		{"gzip", Gzip, packed, plain},
		{"zstd", Zstd, zpacked, plain},
		{"docker", "application/vnd.docker.image.rootfs.diff.tar.gzip", packed, plain},
		{"gzip that is said to be plain", Tar, packed, plain},
		{"plain that is said to be gzip", Gzip, plain, plain},
		{"zstd that is said to be gzip", Gzip, zpacked, plain},
		{"gzip of two members", Gzip, join(Compress(t, plain[:half]), Compress(t, plain[half:])), plain},
		{"gzip with an empty member", Gzip, join(packed, Compress(t, nil)), plain},
		{"zstd of two frames", Zstd, join(zw.EncodeAll(plain[:half], nil), zw.EncodeAll(plain[half:], nil)), plain},
		{"zstd with skippable frames", Zstd, join(skippable, zpacked, skippable), plain},
		{"bytes after the archive", Tar, join(plain, []byte("more")), join(plain, []byte("more"))},
		{"bytes after the archive, gzip", Gzip, Compress(t, join(plain, []byte("more"))), join(plain, []byte("more"))},
		{"an archive after the archive", Gzip, join(packed, Compress(t, Archive(t, File("b", "")))), join(plain, Archive(t, File("b", "")))},
		{"no end of the archive", Tar, plain[:len(plain)-1024], plain[:len(plain)-1024]},
		{"bytes after gzip", Gzip, join(packed, []byte("more bytes")), nil},
		{"zeroes after gzip", Gzip, join(packed, make([]byte, 512)), nil},
		{"bytes after zstd", Zstd, join(zpacked, []byte("more bytes")), nil},
		{"gzip cut off", Gzip, packed[:len(packed)-9], nil},
		{"gzip without its length", Gzip, packed[:len(packed)-2], nil},
		{"gzip with a wrong checksum", Gzip, flip(packed, len(packed)-8), nil},
		{"zstd cut off", Zstd, zpacked[:len(zpacked)-5], nil},
		{"zstd with a wrong checksum", Zstd, flip(zpacked, len(zpacked)-1), nil},
		{"plain cut off", Tar, plain[:5000], nil},
		{"plain cut off in a header", Tar, plain[:100], nil},
		{"not an archive", Tar, []byte(strings.Repeat("hello, world", 100)), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewImage(t)
			res, err := layer.Unpack(t.Context(), blobOf(c.blob, c.mediaType), f, layer.Limits{})
			if c.stream == nil {
				if !errors.Is(err, layer.ErrInvalid) {
					t.Errorf("error %v, want ErrInvalid", err)
				}
				notAnImage(t, f)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := digest.FromBytes(c.stream); res.DiffIDs[0] != want {
				t.Errorf("diff id %s, want %s", res.DiffIDs[0], want)
			}
			if got := brief(t, OpenImage(t, f)); len(got) != 1 {
				t.Errorf("%d entries, want 1", len(got))
			}
		})
	}
}

// flip returns the bytes with one of them changed.
func flip(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0x10
	return b
}

func TestMediaType(t *testing.T) {
	for _, mediaType := range []string{"", "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"} {
		_, err := layer.Unpack(t.Context(), blobOf(Archive(t), mediaType), NewImage(t), layer.Limits{})
		if !errors.Is(err, layer.ErrMediaType) || !strings.Contains(err.Error(), "tar+zstd") {
			t.Errorf("%q: %v, want ErrMediaType and what there is", mediaType, err)
		}
	}
}

// failing ends with an error.
type failing struct {
	r   *bytes.Reader
	err error
}

func (f failing) Read(p []byte) (int, error) {
	if f.r.Len() == 0 {
		return 0, f.err
	}
	return f.r.Read(p)
}

// TestSourceFails: an error of reading the blob is not one of the layer.
func TestSourceFails(t *testing.T) {
	lost := fmt.Errorf("disk on fire: %w", io.EOF) // not the end of the blob
	plain := Archive(t, File("a", strings.Repeat("x", 1<<20)))
	for _, data := range [][]byte{plain[:0], plain[:3], plain[:600000], Compress(t, plain)[:200], plain} {
		_, err := layer.Unpack(t.Context(), layer.Blob{Reader: failing{bytes.NewReader(data), lost}, MediaType: Tar}, NewImage(t), layer.Limits{})
		if !errors.Is(err, lost) || errors.Is(err, layer.ErrInvalid) {
			t.Errorf("after %d bytes: %v, want that of the blob", len(data), err)
		}
	}
}

// endless is a file that never ends; its reading is cancelled after a while.
type endless struct {
	reads  int
	cancel context.CancelCauseFunc
}

var errEnough = errors.New("enough")

func (e *endless) Read(p []byte) (int, error) {
	if e.reads++; e.reads == 100 {
		e.cancel(errEnough)
	}
	clear(p)
	return len(p), nil
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var head bytes.Buffer
	big := Entry("a", tar.TypeReg, "", func(h *tar.Header) { h.Size = 1 << 37 })
	if err := tar.NewWriter(&head).WriteHeader(&big.Header); err != nil {
		t.Fatal(err)
	}
	blob := layer.Blob{Reader: io.MultiReader(&head, &endless{cancel: cancel}), MediaType: Tar}
	if _, err := layer.Unpack(ctx, blob, NewImage(t), layer.Limits{}); !errors.Is(err, errEnough) {
		t.Errorf("error %v, want the cause of the end", err)
	}
}
