package erofs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// memory is an image in memory.
type memory struct {
	b      []byte
	writes int
	fail   int // which write fails; 0: none
}

var errFull = errors.New("disk full")

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.writes++; m.writes == m.fail {
		return 0, errFull
	}
	m.grow(off + int64(len(p)))
	return copy(m.b[off:], p), nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.b).ReadAt(p, off)
}

func (m *memory) Truncate(size int64) error {
	if m.writes++; m.writes == m.fail {
		return errFull
	}
	m.grow(size)
	m.b = m.b[:size]
	return nil
}

func (m *memory) grow(size int64) {
	if n := size - int64(len(m.b)); n > 0 {
		m.b = append(m.b, make([]byte, n)...)
	}
}

func (m *memory) open(t testing.TB) *Image {
	t.Helper()
	i, err := Open(m, int64(len(m.b)))
	if err == nil {
		err = Check(t.Context(), i)
	}
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// attr is that of an inode that is extended if the first one is another.
func attr(sec int64) Attr { return Attr{Mode: 0o644, Sec: sec, Nsec: 5} }

func mustFile(t testing.TB, w *Writer, a Attr, data []byte) Entry {
	t.Helper()
	i, err := w.File(a, int64(len(data)), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return Entry{Inode: i}
}

func mustClose(t testing.TB, w *Writer, root *Dir) Stat {
	t.Helper()
	stat, err := w.Close(root, [16]byte{1, 2, 3})
	if err != nil {
		t.Fatal(err)
	}
	return stat
}

func mustLookup(t testing.TB, m *Image, path string) Info {
	t.Helper()
	i, err := m.Info(m.Root())
	for part := range strings.SplitSeq(path, "/") {
		if err == nil && part != "" {
			i, err = m.Lookup(i, part)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return i
}

// patterns are ways for a file of a size to look.
var patterns = map[string]func(b []byte){
	"full":       func(b []byte) { fill(b) },
	"zero":       func([]byte) {},
	"begins":     func(b []byte) { fill(b[:min(len(b), 10)]) },
	"ends":       func(b []byte) { fill(b[max(0, len(b)-1):]) },
	"middle":     func(b []byte) { fill(b[len(b)/2:][:min(len(b)-len(b)/2, 5000)]) },
	"alternates": func(b []byte) { eachOther(b, pieceSize) },
	"fine holes": func(b []byte) { eachOther(b, BlockSize) },
}

func fill(b []byte) {
	r := rand.NewChaCha8([32]byte{byte(len(b))})
	r.Read(b)
}

func eachOther(b []byte, unit int) {
	for at := unit; at < len(b); at += 2 * unit {
		fill(b[at:min(at+unit, len(b))])
	}
}

// TestFiles: data comes back, whatever its length and its holes.
func TestFiles(t *testing.T) {
	sizes := []int{0, 1, inlineMax - 1, inlineMax, inlineMax + 1, 4095, 4096, 4097, 4096 + inlineMax, 3*4096 + 100, pieceSize,
		2*pieceSize - 1, 2 * pieceSize, 2*pieceSize + 1, 3*pieceSize + 10, 3*pieceSize + 3000, 20 * pieceSize, outputSize - 10, outputSize + 10, 3*outputSize + 7}
	var f memory
	w, root, want := NewWriter(&f), &Dir{}, map[string][]byte{}
	for pattern, make_ := range patterns {
		for n, size := range sizes {
			name := fmt.Sprintf("%s %d", pattern, size)
			data := make([]byte, size)
			make_(data)
			want[name] = data
			root.Set(name, mustFile(t, w, attr(int64(n%2)), data))
		}
	}
	if stat := mustClose(t, w, root); stat.Size != int64(len(f.b)) || stat.Inodes != uint64(len(want)+1) {
		t.Errorf("stat %+v, want %d bytes, %d inodes", stat, len(f.b), len(want)+1)
	}
	m := f.open(t)
	unusedIsZero(t, m, f.b)
	for name, data := range want {
		i := mustLookup(t, m, name)
		got, err := io.ReadAll(m.Data(i))
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: other data, %v", name, err)
		}
		if i.Links != 1 || i.Mode != 0o644 || i.Nsec != 5 {
			t.Errorf("%s: %+v", name, i)
		}
	}
}

// unusedIsZero checks that nothing of one file ends up behind another.
func unusedIsZero(t *testing.T, m *Image, b []byte) {
	t.Helper()
	root, err := m.Info(m.Root())
	c := &checker{m: m, seen: make(map[uint64]*visited)}
	c.use(0, superOffset+superSize)
	if err == nil {
		err = c.inode(t.Context(), root, root)
	}
	if err != nil {
		t.Fatal(err)
	}
	rest := bytes.Clone(b)
	for _, p := range c.used {
		clear(rest[p.from:p.to])
	}
	for at, v := range rest {
		if v != 0 {
			t.Fatalf("byte %d of the image is %d, and nobody's", at, v)
		}
	}
}

// TestSize: how large an image is.
func TestSize(t *testing.T) {
	for _, c := range []struct {
		name   string
		size   int // of the one file; negative: none
		blocks int64
	}{
		{"nothing", -1, 1},
		{"small file", 100, 2},
		{"a block", BlockSize, 3},
		{"a block and a bit", BlockSize + 100, 3},
		{"a block and most of another", BlockSize + inlineMax + 1, 4},
	} {
		var f memory
		w, root := NewWriter(&f), &Dir{}
		if c.size >= 0 {
			root.Set("file", mustFile(t, w, attr(1), bytes.Repeat([]byte("x"), c.size)))
		}
		if stat := mustClose(t, w, root); stat.Size != c.blocks*BlockSize || int64(len(f.b)) != stat.Size {
			t.Errorf("%s: %d bytes, want %d blocks", c.name, stat.Size, c.blocks)
		}
	}
}

// TestHoles: long holes take no place in the image.
func TestHoles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "image")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1<<32 + 1<<20 + 12345
	w, root := NewWriter(f), &Dir{}
	parts := io.MultiReader(strings.NewReader("begin"), io.LimitReader(zero{}, 1<<32), strings.NewReader("middle"), io.LimitReader(zero{}, size))
	i, err := w.File(attr(1), size, parts)
	if err != nil {
		t.Fatal(err)
	}
	root.Set("huge", Entry{Inode: i})
	root.Set("after", mustFile(t, w, attr(1), []byte("after")))
	if stat := mustClose(t, w, root); stat.Size > 8<<20 {
		t.Errorf("the image has %d bytes", stat.Size)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := Open(f, st.Size())
	if err == nil {
		err = Check(t.Context(), m)
	}
	if err != nil {
		t.Fatal(err)
	}
	huge := mustLookup(t, m, "huge")
	if huge.Size != size {
		t.Errorf("%d bytes, want %d", huge.Size, int64(size))
	}
	for at, want := range map[int64]string{0: "begin\x00", 5 + 1<<32: "middle\x00", size - 1: "\x00", 1 << 31: "\x00"} {
		e, err := m.extent(huge, at)
		got := make([]byte, len(want))
		if err == nil && e.Physical >= 0 {
			err = m.read(got, e.Physical)
		}
		if err != nil || string(got) != want {
			t.Errorf("at %d: %q, %v; want %q", at, got, err, want)
		}
	}
}

type zero struct{}

func (zero) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestFolders: all names are found in folders of any size, and no others.
func TestFolders(t *testing.T) {
	var f memory
	w, root := NewWriter(&f), &Dir{}
	file := mustFile(t, w, attr(1), nil)
	names := func(count, length int) (names []string) {
		for n := range count {
			names = append(names, fmt.Sprintf("%0*d", length, n))
		}
		return names
	}
	folders := map[string][]string{
		"none": nil, "one": {"x"}, "before the dots": {"!", "-", " "}, "odd": {"...", "..a", ".a", "\xff", "\x01"},
		"just inline": names(80, 12), "just not inline": names(90, 12), "a block": names(157, 14), "a block and one": names(158, 14),
		"long": names(50, 255), "many": names(5000, 20), "full block": append(names(200, 8), "zz"),
	}
	for name, in := range folders {
		d := &Dir{Attr: attr(int64(len(in)))}
		for _, n := range in {
			d.Set(n, file)
		}
		root.Set(name, Entry{Dir: d})
	}
	deep := root
	for range 300 {
		d := &Dir{}
		deep.Set("deep", Entry{Dir: d})
		deep = d
	}
	deep.Set("end", file)
	mustClose(t, w, root)
	m := f.open(t)
	mustLookup(t, m, strings.Repeat("deep/", 300)+"end")
	for name, in := range folders {
		d := mustLookup(t, m, name)
		entries, err := m.ReadDir(d)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range entries {
			got = append(got, e.Name)
		}
		slices.Sort(in)
		if !slices.Equal(in, got) {
			t.Errorf("%s: %d names, want %d", name, len(got), len(in))
		}
		for _, n := range in {
			mustLookup(t, m, name+"/"+n)
			if _, err := m.Lookup(d, n+"\x01"); !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %q, which there is not: %v", name, n, err)
			}
		}
	}
	links := uint32(1) // 5000 and so on
	for _, in := range folders {
		links += uint32(len(in))
	}
	if i := mustLookup(t, m, "one/x"); i.Links != links {
		t.Errorf("%d links, want %d", i.Links, links)
	}
}

// TestDeterministic: the same calls make the same bytes, in any order of
// setting names.
func TestDeterministic(t *testing.T) {
	make_ := func(identity byte, backwards bool) []byte {
		var f memory
		w, root := NewWriter(&f), &Dir{}
		xattrs := []Xattr{{"user.b", nil}, {"user.a", []byte("x")}}
		if backwards {
			slices.Reverse(xattrs)
		}
		file := mustFile(t, w, Attr{Xattrs: xattrs}, bytes.Repeat([]byte("data"), 5000))
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
		if backwards {
			slices.Reverse(names)
		}
		for _, n := range names {
			d := &Dir{}
			d.Set(n, file)
			root.Set(n, Entry{Dir: d})
		}
		if _, err := w.Close(root, [16]byte{identity}); err != nil {
			t.Fatal(err)
		}
		return f.b
	}
	first := make_(1, false)
	if !bytes.Equal(first, make_(1, true)) {
		t.Error("the same image has other bytes")
	}
	if bytes.Equal(first, make_(2, false)) {
		t.Error("another identity makes the same image")
	}
}

// TestCompact: inodes of one time take half the place.
func TestCompact(t *testing.T) {
	for _, c := range []struct {
		name    string
		attr    Attr
		compact bool
	}{
		{"same time", attr(7), true},
		{"other time", attr(8), false},
		{"other nanoseconds", Attr{Sec: 7, Nsec: 6}, false},
		{"large owner", Attr{Sec: 7, Nsec: 5, UID: 1 << 16}, false},
		{"large group", Attr{Sec: 7, Nsec: 5, GID: 1 << 16}, false},
		{"largest owner", Attr{Sec: 7, Nsec: 5, UID: math.MaxUint16, GID: math.MaxUint16}, true},
		{"before 1970", Attr{Sec: -7}, false},
	} {
		var f memory
		w, root := NewWriter(&f), &Dir{Attr: c.attr}
		root.Set("first", mustFile(t, w, attr(7), nil))
		root.Set("second", mustFile(t, w, c.attr, []byte("x")))
		mustClose(t, w, root)
		m := f.open(t)
		for _, name := range []string{"second", "."} {
			i := mustLookup(t, m, strings.TrimPrefix(name, "."))
			if compact := i.length == compactSize; compact != c.compact {
				t.Errorf("%s: compact is %v", c.name, compact)
			}
			if i.Sec != c.attr.Sec || i.Nsec != c.attr.Nsec || i.UID != c.attr.UID || i.GID != c.attr.GID {
				t.Errorf("%s: %+v", c.name, i)
			}
		}
	}
}

// TestLinks: how many names an inode may have.
func TestLinks(t *testing.T) {
	for _, c := range []struct {
		name  string
		sec   int64
		links int
		ok    bool
	}{
		{"compact", 1, 65535, true}, {"compact, too many", 1, 65536, false}, {"extended", 2, 70000, true},
	} {
		var f memory
		w, root := NewWriter(&f), &Dir{Attr: attr(1)}
		root.Set("first", mustFile(t, w, attr(1), nil))
		file := mustFile(t, w, attr(c.sec), nil)
		for n := range c.links {
			root.Set(fmt.Sprint(n), file)
		}
		_, err := w.Close(root, [16]byte{})
		if !c.ok {
			if !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: %v, want ErrTooLarge", c.name, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if i := mustLookup(t, f.open(t), "77"); i.Links != uint32(c.links) {
			t.Errorf("%s: %d links, want %d", c.name, i.Links, c.links)
		}
	}
}

// TestRefused: what is no inode.
func TestRefused(t *testing.T) {
	w := NewWriter(&memory{})
	for name, do := range map[string]func() (*Inode, error){
		"symlink to nothing": func() (*Inode, error) { return w.Symlink(Attr{}, "") },
		"long symlink":       func() (*Inode, error) { return w.Symlink(Attr{}, strings.Repeat("t", MaxSymlink+1)) },
		"major number":       func() (*Inode, error) { return w.Node(Attr{}, unix.S_IFCHR, 1<<12, 0) },
		"minor number":       func() (*Inode, error) { return w.Node(Attr{}, unix.S_IFBLK, 0, 1<<20) },
		"negative size":      func() (*Inode, error) { return w.File(Attr{}, -1, zero{}) },
		"size":               func() (*Inode, error) { return w.File(Attr{}, 1<<44, zero{}) },
	} {
		if _, err := do(); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v, want ErrTooLarge", name, err)
		}
	}
	if _, err := w.Node(Attr{}, unix.S_IFREG, 0, 0); err == nil {
		t.Error("a file as a device is taken")
	}
	if _, err := w.File(Attr{Nsec: 1e9}, 0, zero{}); err == nil {
		t.Error("a second of 10⁹ ns is taken")
	}
	for _, size := range []int64{1, 5000, 1 << 20} {
		if _, err := w.File(Attr{}, size, strings.NewReader("")); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("data that ends early: %v", err)
		}
		if _, err := w.File(Attr{}, size, io.MultiReader(strings.NewReader("1"), failing{})); size > 1 && !errors.Is(err, errFull) {
			t.Errorf("data that fails: %v", err)
		}
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errFull }

// TestWriteFails: whichever write fails, the error is returned, and there is
// no image.
func TestWriteFails(t *testing.T) {
	data := make([]byte, 3*outputSize)
	fill(data)
	run := func(f *memory) error {
		w, root := NewWriter(f), &Dir{}
		for n, size := range []int{100, 5000, len(data), 300000, 7} {
			i, err := w.File(Attr{Sec: int64(n), Xattrs: []Xattr{{"user.a", data[:size%9000]}}}, int64(size), bytes.NewReader(data))
			if err != nil {
				return err
			}
			root.Set(fmt.Sprint(n), Entry{Inode: i})
			root.Set(fmt.Sprint(n, " again"), Entry{Inode: i})
			for k := range 200 {
				d := &Dir{Attr: attr(int64(k))}
				d.Set(strings.Repeat("n", 200), Entry{Inode: i})
				root.Set(fmt.Sprint("dir", n, k), Entry{Dir: d})
			}
		}
		_, err := w.Close(root, [16]byte{})
		return err
	}
	var whole memory
	if err := run(&whole); err != nil {
		t.Fatal(err)
	}
	whole.open(t)
	if whole.writes < 10 {
		t.Fatalf("only %d writes: not much of a test", whole.writes)
	}
	for n := range whole.writes {
		f := memory{fail: n + 1}
		if err := run(&f); !errors.Is(err, errFull) {
			t.Errorf("write %d of %d fails: %v", n+1, whole.writes, err)
		}
		if _, err := Open(&f, int64(len(f.b))); err == nil {
			t.Errorf("write %d of %d fails, but there is an image", n+1, whole.writes)
		}
	}
}
