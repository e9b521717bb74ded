package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// TestLimits: each limit holds, and what just fits is taken.
func TestLimits(t *testing.T) {
	many := func(n int) (items []Item) {
		for i := range n {
			items = append(items, File(fmt.Sprintf("f%03d", i), ""))
		}
		return items
	}
	zeroes := strings.Repeat("\x00", 5<<20)
	window := func(size int) []byte {
		w, err := zstd.NewWriter(nil, zstd.WithWindowSize(size), zstd.WithSingleSegment(false))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w.Reset(&b)
		if _, err := w.Write(Archive(t, File("a", zeroes))); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zbomb := func() []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(Archive(t, File("a", zeroes)), nil)
	}
	one := Archive(t, File("a", "1"))
	sparse := Join(Sparse("s", 1<<20, map[int64]string{0: "x"}, 0))
	for _, c := range []struct {
		name string
		data []byte
		lim  layer.Limits
		ok   bool
	}{
		{"stream as long as allowed", one, layer.Limits{Bytes: int64(len(one))}, true},
		{"stream too long", one, layer.Limits{Bytes: int64(len(one)) - 1}, false},
		{"sparse file as long as allowed", sparse, layer.Limits{Bytes: 1 << 20}, true},
		{"sparse file too long", sparse, layer.Limits{Bytes: 1<<20 - 1}, false},
		{"sparse files that are too long together", Join(Sparse("a", 1<<40, map[int64]string{0: "x"}, 0), Sparse("b", 1<<62, nil)), layer.Limits{}, false},
		{"gzip bomb", Compress(t, Archive(t, File("a", zeroes))), layer.Limits{RatioFloor: 4 << 20}, false},
		{"gzip bomb that is allowed", Compress(t, Archive(t, File("a", zeroes))), layer.Limits{Ratio: 2000, RatioFloor: 4 << 20}, true},
		{"zstd bomb", zbomb(), layer.Limits{RatioFloor: 4 << 20}, false},
		{"short bomb", Compress(t, Archive(t, File("a", zeroes[:2<<20]))), layer.Limits{RatioFloor: 4 << 20}, true},
		{"zstd window as large as allowed", window(2 << 20), layer.Limits{DecoderMemory: 2 << 20}, true},
		{"zstd window too large", window(4 << 20), layer.Limits{DecoderMemory: 2 << 20}, false},
		{"as many entries as allowed", Archive(t, many(100)...), layer.Limits{Inodes: 100}, true},
		{"too many entries", Archive(t, many(101)...), layer.Limits{Inodes: 100}, false},
		{"too many folders that no entry names", Archive(t, File("1/2/3/4/5/6/7/8/9/a", "")), layer.Limits{Inodes: 5}, false},
		{"as deep as allowed", Archive(t, File("a/b/c", "")), layer.Limits{Depth: 2}, true},
		{"too deep", Archive(t, File("a/b/c", "")), layer.Limits{Depth: 1}, false},
		{"names that just fit", Archive(t, many(10)...), layer.Limits{Metadata: 40}, true},
		{"too many names", Archive(t, many(10)...), layer.Limits{Metadata: 39}, false},
		{"targets of symbolic links", Archive(t, Symlink("a", strings.Repeat("t", 50))), layer.Limits{Metadata: 50}, false},
		{"attributes of folders", Archive(t, Dir("a", Xattr("user.a", strings.Repeat("v", 50)))), layer.Limits{Metadata: 50}, false},
		{"attributes of files are not kept", Archive(t, File("a", "", Xattr("user.a", strings.Repeat("v", 50)))), layer.Limits{Metadata: 50}, true},
		{"folder that is replaced for ever", Archive(t, replaced(100)...), layer.Limits{Metadata: 100}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewImage(t)
			_, err := layer.Unpack(t.Context(), blobOf(c.data, Tar), f, c.lim)
			if c.ok {
				if err != nil {
					t.Fatal(err)
				}
				OpenImage(t, f)
				return
			}
			if !errors.Is(err, layer.ErrLimit) {
				t.Errorf("error %v, want ErrLimit", err)
			}
			notAnImage(t, f)
		})
	}
}

// replaced makes a name a folder and a file again and again.
func replaced(n int) (items []Item) {
	for range n {
		items = append(items, Dir("a/"), File("a", ""))
	}
	return items
}

// TestDamagedArchive: what no tar would write.
func TestDamagedArchive(t *testing.T) {
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"PAX size that is negative", Join(PAX("size=-1"), Raw("a", '0', 0, ""))},
		{"PAX size of 70 bits", Join(PAX("size=1180591620717411303424"), Raw("a", '0', 0, ""))},
		{"PAX size beyond the stream", Join(PAX("size=100000"), Raw("a", '0', 0, ""))},
		{"PAX path with a zero byte", Join(PAX("path=a\x00b"), Raw("a", '0', 0, ""))},
		{"PAX link with a zero byte", Join(PAX("linkpath=a\x00b"), Raw("a", '2', 0, ""))},
		{"PAX path of 1 MiB", Join(PAX("path="+strings.Repeat("a", 1<<20)), Raw("a", '0', 0, ""))},
		{"PAX path of 5000 bytes", Join(PAX("path="+strings.Repeat("a/", 2500)), Raw("a", '0', 0, ""))},
		{"PAX records that are not", Join(Raw("x", 'x', 10, "0123456789"), Raw("a", '0', 0, ""))},
		{"PAX record longer than it is", Join(Raw("x", 'x', 8, "99 a=bc\n"), Raw("a", '0', 0, ""))},
		{"PAX records of 8 GiB", Join(Raw("x", 'x', 1<<33-1, ""), Raw("a", '0', 0, ""))},
		{"PAX owner", Join(PAX("uid=4294967296"), Raw("a", '0', 0, ""))},
		{"PAX negative owner", Join(PAX("gid=-5"), Raw("a", '0', 0, ""))},
		{"PAX attribute of 70000 bytes", Join(PAX("SCHILY.xattr.user.a="+strings.Repeat("v", 70000)), Raw("a", '0', 0, ""))},
		{"attributes of 70000 bytes", Join(PAX("SCHILY.xattr.user.a="+strings.Repeat("v", 35000), "SCHILY.xattr.user.b="+strings.Repeat("v", 35000)), Raw("a", '0', 0, ""))},
		{"attributes of the root that do not fit", Join(PAX("SCHILY.xattr.user.a="+strings.Repeat("v", 4000)), Raw("./", '5', 0, ""))},
		{"negative size", Join(RawHeader("a", '0', "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ""))},
		{"size that is no number", Join(RawHeader("a", '0', "12345678xyz", ""))},
		{"no name", Join(Raw("", '0', 0, ""))},
		{"sparse data that overlaps", Join(Sparse("s", 1<<20, map[int64]string{0: "xxxx", 2: "y"}, 0, 2))},
		{"sparse data out of order", Join(Sparse("s", 1<<20, map[int64]string{0: "x", 5000: "y"}, 5000, 0))},
		{"sparse data beyond the file", Join(Sparse("s", 10, map[int64]string{8: "xxxx"}, 8))},
		{"sparse file of negative size", Join(Sparse("s", -1, nil))},
		{"checksum", flip(Join(Raw("a", '0', 0, "")), 0)},
		{"GNU multi-volume", Join(Raw("a", 'M', 0, ""))},
		{"GNU volume label", Join(Raw("a", 'V', 0, ""))},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewImage(t)
			_, err := layer.Unpack(t.Context(), blobOf(c.data, Tar), f, layer.Limits{})
			if !errors.Is(err, layer.ErrInvalid) && !errors.Is(err, layer.ErrLimit) {
				t.Errorf("error %v, want ErrInvalid or ErrLimit", err)
			}
			notAnImage(t, f)
		})
	}
}

// TestGlobalHeader: git's archives begin with one.
func TestGlobalHeader(t *testing.T) {
	global := tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "1"}}
	f, _ := unpack(t, Archive(t, Item{Header: global}, File("a", "1")))
	if got := brief(t, OpenImage(t, f)); len(got) != 1 || got[0] != "a 1" {
		t.Errorf("got %q", got)
	}
}
