package layers

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vc-runtime/vc-runtime/image/erofs"
	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// unpack unpacks a layer into a file, and has it checked.
func unpack(t testing.TB, blob []byte) *os.File {
	t.Helper()
	f := NewImage(t)
	if _, err := layer.Unpack(t.Context(), layer.Blob{Reader: bytes.NewReader(blob), MediaType: Tar}, f, layer.Limits{}); err != nil {
		t.Fatal(err)
	}
	check(t, f)
	return f
}

// check checks an image with our program and erofs-utils'.
func check(t testing.TB, f *os.File) *erofs.Image {
	t.Helper()
	m := OpenImage(t, f)
	if out, err := exec.Command(tool(t, "fsck.erofs"), "--extract", f.Name()).CombinedOutput(); err != nil {
		t.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	return m
}

// shown checks that the kernel and our reader see the same in an image, and
// returns it.
func shown(t testing.TB, f *os.File) []string {
	t.Helper()
	want, err := Listing(check(t, f))
	if err != nil {
		t.Fatal(err)
	}
	mounted(t, []string{f.Name()}, func(dirs []string) error {
		got, err := listing(dirs[0])
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the kernel sees something else (-reader +kernel):\n%s", diff)
		}
		return err
	})
	return want
}

// sum stands for the data of a file in a listing.
func sum(t testing.TB, data string) string {
	t.Helper()
	s, err := Sum(int64(len(data)), strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return " " + s
}

// TestMount: what the kernel shows of an image is what the layer says.
func TestMount(t *testing.T) {
	needRoot(t)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	xattrs := func(h *tar.Header) {
		Xattr("user.kind", "test")(h)
		Xattr("security.capability", capability)(h)
		Xattr("trusted.overlay.opaque", "y")(h)
	}
	long := strings.Repeat("n", 255)
	target := strings.Repeat("t", 4000)
	big := strings.Repeat("0123456789abcdef", 20000)
	got := shown(t, unpack(t, Archive(t,
		Dir("./"),
		Dir("dir/", Mode(0o1777), xattrs),
		File("dir/empty", ""),
		File("dir/small", "small\n", xattrs),
		File("dir/block", strings.Repeat("b", 4096)),
		File("dir/tail", strings.Repeat("t", 4097)),
		File("dir/large tail", strings.Repeat("t", 4095)),
		File("dir/big", big, Mode(0o4755), Owner(100000, 70000)),
		Link("dir/link", "dir/big"),
		File("made/up/"+long, "x"),
		Symlink("sym", "/etc/passwd"),
		Symlink("longsym", target),
		Node("chr", tar.TypeChar, 10, 70000),
		Node("blk", tar.TypeBlock, 259, 3),
		Node("fifo", tar.TypeFifo, 0, 0),
		File("dir/.wh.gone", ""),
		File("made/.wh..wh..opq", ""),
		File("manyxattrs", "x", Xattr("user.a", strings.Repeat("a", 5000)), Xattr("user.b", strings.Repeat("b", 30000)), Xattr("trusted.c", "c")),
	)))
	caps := " security.capability=0100000200040000000000000000000000000000 user.kind=74657374"
	at := " 0:0 1700000000.123456789"
	want := []string{
		`"." 40755` + at,
		`"blk" 60644` + at + ` 259,3 links 1`,
		`"chr" 20644` + at + ` 10,70000 links 1`,
		`"dir" 41777` + at + caps,
		`"dir/big" 104755 100000:70000 1700000000.123456789` + sum(t, big) + ` links 2`,
		`"dir/block" 100644` + at + sum(t, strings.Repeat("b", 4096)) + ` links 1`,
		`"dir/empty" 100644` + at + sum(t, "") + ` links 1`,
		`"dir/gone" 20000 0:0 0.000000000 0,0 links 1`,
		`"dir/large tail" 100644` + at + sum(t, strings.Repeat("t", 4095)) + ` links 1`,
		`"dir/link" 104755 100000:70000 1700000000.123456789` + sum(t, big) + ` = "dir/big" links 2`,
		`"dir/small" 100644` + at + sum(t, "small\n") + ` links 1` + caps,
		`"dir/tail" 100644` + at + sum(t, strings.Repeat("t", 4097)) + ` links 1`,
		`"fifo" 10644` + at + ` links 1`,
		`"longsym" 120777` + at + ` -> "` + target + `" links 1`,
		`"made" 40755 0:0 0.000000000 trusted.overlay.opaque=79`,
		`"made/up" 40755 0:0 0.000000000`,
		`"made/up/` + long + `" 100644` + at + sum(t, "x") + ` links 1`,
		`"manyxattrs" 100644` + at + sum(t, "x") + ` links 1 trusted.c=63 user.a=` + strings.Repeat("61", 5000) + ` user.b=` + strings.Repeat("62", 30000),
		`"sym" 120777` + at + ` -> "/etc/passwd" links 1`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestLargeFolder: names are found in a folder of 100,000, first, last and in
// between, by the kernel's search and by ours.
func TestLargeFolder(t *testing.T) {
	needRoot(t)
	var items []Item
	for i := range 100_000 {
		items = append(items, File(fmt.Sprintf("d/%x-%s", i*7919%100_000, strings.Repeat("n", i%60)), ""))
	}
	f := unpack(t, Archive(t, items...))
	m := check(t, f)
	root, err := m.Info(m.Root())
	if err != nil {
		t.Fatal(err)
	}
	d, err := m.Lookup(root, "d")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := m.ReadDir(d)
	if err != nil || len(entries) != len(items) {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	mounted(t, []string{f.Name()}, func(dirs []string) error {
		listed, err := os.ReadDir(filepath.Join(dirs[0], "d"))
		if err != nil || len(listed) != len(items) {
			return fmt.Errorf("the kernel lists %d names: %w", len(listed), err)
		}
		for i := 0; i < len(items); i += 97 {
			if _, err := os.Lstat(filepath.Join(dirs[0], items[i].Name)); err != nil {
				return err
			}
			if _, err := m.Lookup(d, filepath.Base(items[i].Name)); err != nil {
				return err
			}
		}
		_, err = os.Lstat(filepath.Join(dirs[0], "d/none"))
		if !os.IsNotExist(err) {
			return fmt.Errorf("a name that there is not: %v", err)
		}
		return nil
	})
}
