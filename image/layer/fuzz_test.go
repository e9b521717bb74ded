package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/image/erofs"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// memory is an image in memory.
type memory struct{ b []byte }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	m.grow(off + int64(len(p)))
	return copy(m.b[off:], p), nil
}

func (m *memory) Truncate(size int64) error { m.grow(size); return nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) grow(size int64) {
	if n := size - int64(len(m.b)); n > 0 {
		m.b = append(m.b, make([]byte, n)...)
	}
}

func (m *memory) open(t *testing.T) *erofs.Image {
	t.Helper()
	i, err := erofs.Open(m, int64(len(m.b)))
	if err == nil {
		err = erofs.Check(t.Context(), i)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// fuzzLimits keep a run short.
var fuzzLimits = Limits{Bytes: 4 << 20, Inodes: 1000, Depth: 20}

// unpackMemory unpacks an uncompressed layer; nil: it is refused.
func unpackMemory(t *testing.T, data []byte) (*memory, Result) {
	t.Helper()
	m := &memory{}
	res, err := Unpack(t.Context(), Blob{bytes.NewReader(data), Tar}, m, fuzzLimits)
	if err != nil {
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrLimit) {
			t.Fatalf("an error that is not of the layer: %v", err)
		}
		if _, err := erofs.Open(m, int64(len(m.b))); err == nil {
			t.Fatal("what is left of a refused layer is an image")
		}
		return nil, res
	}
	return m, res
}

// FuzzTar: any bytes are refused or become a right image, the same each time.
func FuzzTar(f *testing.F) {
	f.Add(Archive(f, Dir("a/"), File("a/b", "data"), Symlink("c", "a/b"), Link("d", "a/b"), Node("e", tar.TypeChar, 1, 3)))
	f.Add(Archive(f, File("a/.wh.b", ""), File("a/.wh..wh..opq", ""), File("x", "", Xattr("user.x", "y"))))
	f.Add(Join(Sparse("s", 300000, map[int64]string{0: "x", 200000: "yyy"}, 0, 200000)))
	f.Add(Join(PAX("path=long/name", "size=3", "mtime=1.5"), Raw("x", '0', 3, "abc")))
	f.Add(Join(Raw("././@LongLink", 'L', 6, "a/b/c\x00"), Raw("x", '0', 0, "")))
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		FixChecksums(data)
		m, res := unpackMemory(t, data)
		if m == nil {
			return
		}
		if res.DiffIDs[0] != digest.FromBytes(data) {
			t.Errorf("diff id %s", res.DiffIDs[0])
		}
		first, err := Listing(m.open(t))
		if err != nil {
			t.Fatal(err)
		}
		again, _ := unpackMemory(t, data)
		if again == nil || !bytes.Equal(m.b, again.b) {
			t.Error("the same layer makes another image")
		}
		if len(first) == 0 {
			t.Error("no root")
		}
	})
}

// FuzzBlob: any blob is refused or becomes a right image.
func FuzzBlob(f *testing.F) {
	plain := Archive(f, File("a", strings.Repeat("1234567890", 500)))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	packed := Compress(f, plain)
	f.Add(packed)
	f.Add(append(packed, packed...))
	f.Add(z.EncodeAll(plain, nil))
	f.Fuzz(func(t *testing.T, blob []byte) {
		if m, _ := unpackMemory(t, blob); m != nil {
			m.open(t)
		}
	})
}

// FuzzLayers: layers made of few names in each other's way. One image of all
// of them has what a stack of the images of each shows.
func FuzzLayers(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 1, 0, 0xff, 1, 10, 0, 1, 11, 0})
	f.Add([]byte{0, 0, 0, 0, 1, 0, 1, 2, 0, 0xff, 1, 13, 0, 0xff, 2, 0, 3, 1, 18, 4})
	f.Add([]byte{2, 0, 1, 1, 2, 0, 3, 3, 0, 0xff, 1, 0, 1})
	lower := []byte{0, 0, 0, 1, 2, 0, 1, 3, 0, 1, 1, 0, 0xff} // a/, a/b, a/c and b
	for _, upper := range [][]byte{
		{1, 10, 0},                              // whiteout of a
		{1, 11, 0},                              // of a/b
		{4, 1, 0},                               // of b, as a device
		{1, 13, 0, 1, 5, 0},                     // opaque a, with a file in it
		{1, 12, 0, 1, 7, 0},                     // opaque root
		{1, 13, 0, 1, 11, 0},                    // a whiteout in an opaque folder
		{1, 10, 0, 0xff, 0, 0, 0},               // a again in the layer above
		{1, 0, 0, 0xff, 0, 0, 0, 0xff, 1, 2, 0}, // a as a file, and as a folder again
	} {
		f.Add(append(slices.Clone(lower), upper...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		var blobs []Blob
		var images []*erofs.Image
		for n, items := range Script(script) {
			data := Archive(t, items...)
			m, res := unpackMemory(t, data)
			if m == nil {
				return
			}
			blobs = append(blobs, Blob{bytes.NewReader(data), Tar})
			if n == 0 {
				m = &memory{}
				if _, err := Merge(t.Context(), []Blob{{bytes.NewReader(data), Tar}}, m, fuzzLimits); err != nil {
					t.Fatal(err)
				}
			}
			if err := Inherit(m, res.Size, res.Implied, images); n > 0 && err != nil {
				t.Fatal(err)
			}
			images = append(images, m.open(t))
		}
		merged := &memory{}
		if _, err := Merge(t.Context(), blobs, merged, fuzzLimits); err != nil {
			if errors.Is(err, ErrLimit) {
				return
			}
			t.Fatal(err)
		}
		if diff := cmp.Diff(stackListing(t, images), stackListing(t, []*erofs.Image{merged.open(t)})); diff != "" {
			t.Errorf("the merged image shows something else (-stack +merged):\n%s", diff)
		}
	})
}

// stackListing lists what a stack of images shows, lowest first, without
// whether inodes are the same.
func stackListing(t *testing.T, images []*erofs.Image) (lines []string) {
	t.Helper()
	var walk func(path string, dirs []found)
	walk = func(path string, dirs []found) {
		entries, err := list(dirs)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			e := entries[name]
			i := e[0]
			line := fmt.Sprintf("%q %o %d %d %d,%d", path+"/"+name, i.Type|i.Mode, i.Sec, i.Size, i.Major, i.Minor)
			if dirs, err := child(dirs, name); err != nil || len(dirs) != len(e) || dirs[0].NID != i.NID {
				t.Errorf("%s/%s is not found as it is listed: %v", path, name, err)
			}
			if i.Type == 0o040000 {
				line = fmt.Sprintf("%q %o %d", path+"/"+name, i.Type|i.Mode, i.Sec)
				lines = append(lines, line)
				walk(path+"/"+name, e)
				continue
			}
			data, err := io.ReadAll(i.image.Data(i.Info))
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprintf("%s %.40q", line, data))
		}
	}
	dirs, err := roots(images)
	if err != nil {
		t.Fatal(err)
	}
	lines = append(lines, fmt.Sprintf("%o %d", dirs[0].Mode, dirs[0].Sec))
	walk("", dirs)
	return lines
}
