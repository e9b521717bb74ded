package layers

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image/erofs"
	"github.com/vc-runtime/vc-runtime/image/layer"
	. "github.com/vc-runtime/vc-runtime/image/layer/layertest"
)

// stacks are layers on each other, the lowest first.
var stacks = map[string][][]Item{
	"one": {{Dir("a/"), File("a/b", "1"), Link("c", "a/b")}},
	"files": {
		{Dir("./"), Dir("a/", Mode(0o700)), File("a/x", "1"), File("a/y", "2"), File("a/z", "3")},
		{Dir("./", Mode(0o711)), Dir("a/", Mode(0o750), Owner(1, 2), Xattr("user.a", "1")), File("a/y", "4"), File("b", "5")},
		{Dir("./"), Dir("a/"), File("a/.wh.x", ""), File("a/.wh.none", "")},
	},
	"folders": {
		{Dir("./"), Dir("a/"), File("a/x", "1"), Dir("b/"), File("b/x", "1"), Dir("c/"), File("c/x", "1"), Dir("d/"), Dir("d/d/"), Dir("d/d/d/"), File("d/d/d/x", "1")},
		{Dir("./"), File("a/.wh..wh..opq", ""), File("a/y", "2"), File(".wh.b", ""), Dir("b/"), File("b/y", "2"), File(".wh.c", ""), Dir("d/"), Dir("d/d/"), File("d/d/.wh.d", ""), Dir("d/d/d/")},
		{Dir("./"), Dir("a/"), File("a/z", "3"), Dir("c/"), File("c/z", "3"), Dir("d/"), Dir("d/d/"), Dir("d/d/d/"), File("d/d/d/y", "3")},
	},
	"file and folder": {
		{Dir("./"), Dir("a/"), File("a/x", "1"), File("b", "1"), Symlink("c", "a"), Dir("d/"), File("d/x", "1")},
		{Dir("./"), File("a", "2"), Dir("b/"), File("b/x", "2"), Dir("c/"), File("c/x", "2"), Symlink("d", "c")},
		{Dir("./"), Dir("a/"), File("a/y", "3"), File("b", "3"), Dir("d/"), File("d/y", "3")},
	},
	"nothing": {
		{Dir("./"), Dir("a/"), File("a/x", "1"), File("b", "1")},
		{Dir("./"), File(".wh.a", ""), File(".wh.b", "")},
		{},
	},
	"hard links": {
		{Dir("./"), File("a", "1"), Link("b", "a"), Link("c", "a")},
		{Dir("./"), File("a", "2"), Link("d", "a"), File(".wh.b", "")},
	},
	"opaque root": {
		{Dir("./"), File("a", "1"), Dir("b/"), File("b/c", "1")},
		{Dir("./"), File(".wh..wh..opq", ""), File("x", "2"), Dir("b/")},
		{Dir("./"), File("y", "3")},
	},
	"whiteouts at the bottom": {
		{Dir("./"), File(".wh.a", ""), Dir("b/"), File("b/.wh..wh..opq", ""), File("b/.wh.c", "")},
		{Dir("./"), File("x", "2")},
	},
	"implied folders": {
		{Dir("./", Mode(0o711)), Dir("tmp/", Mode(0o1777), Owner(5, 6)), File("tmp/a", "1"), Dir("root/", Mode(0o700)), Dir("gone/", Mode(0o700)), Dir("cut/", Mode(0o700)), File("cut/x", "1"), Symlink("lib", "usr/lib")},
		{File("tmp/b", "2"), File("root/x/y", "2"), File(".wh.gone", ""), File("gone/x", "2"), File("cut/.wh..wh..opq", ""), File("cut/y/z", "2")},
		{File("tmp/c", "3"), File("gone/y", "3"), File("root/x/z", "3"), File("lib/x", "3")},
	},
	"everything": {
		{Dir("./"), Node("c", tar.TypeChar, 1, 3, Mode(0o666)), Node("p", tar.TypeFifo, 0, 0), File("s", "1", Mode(0o4755), Owner(7, 8)),
			File("big", strings.Repeat("0123456789abcdef", 30000)), Symlink("l", "/etc/passwd", Owner(9, 10)), File("odd\n\"name", "")},
		{Dir("./"), Node("b", tar.TypeBlock, 259, 7, Mode(0o600), Owner(1, 2)), File("cap", "", Xattr("security.capability",
			"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), Xattr("user.u", "v"))},
	},
}

// TestStacks: an overlay of the layers' images, one image of them all, and a
// folder show the same.
func TestStacks(t *testing.T) {
	needRoot(t)
	for name, items := range stacks {
		t.Run(name, func(t *testing.T) { compareStack(t, items) })
	}
}

func compareStack(t *testing.T, items [][]Item) {
	t.Helper()
	want := overlaid(t, items)
	merged := mergedImage(t, items)
	got, err := Listing(check(t, merged))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, withoutLinks(got)); diff != "" {
		t.Errorf("the merged image differs (-overlay +merged):\n%s", diff)
	}
	for what, images := range map[string][]*os.File{"layers": unpacked(t, items), "merged": {merged}} {
		if diff := cmp.Diff(want, withoutLinks(exported(t, images))); diff != "" {
			t.Errorf("the folder exported from %s differs (-overlay +folder):\n%s", what, diff)
		}
	}
}

// withoutLinks leaves out how many links a file has: an overlay says so of the
// layer that the file is in, whatever has become of the other names.
func withoutLinks(lines []string) []string {
	for n, line := range lines {
		if at := strings.Index(line, " links "); at >= 0 {
			rest := line[at+len(" links "):]
			_, xattrs, more := strings.Cut(rest, " ")
			if lines[n] = line[:at]; more {
				lines[n] += " " + xattrs
			}
		}
	}
	return lines
}

// unpacked unpacks layers each into an image, as the store does it.
func unpacked(t *testing.T, items [][]Item) (images []*os.File) {
	t.Helper()
	var below []*erofs.Image
	for n, layerItems := range items {
		f := NewImage(t)
		blob := layer.Blob{Reader: bytes.NewReader(Archive(t, layerItems...)), MediaType: Tar}
		res, err := layer.Unpack(t.Context(), blob, f, layer.Limits{})
		if n == 0 {
			f = NewImage(t)
			blob.Reader = bytes.NewReader(Archive(t, layerItems...))
			res, err = layer.Merge(t.Context(), []layer.Blob{blob}, f, layer.Limits{})
		}
		if err == nil {
			err = layer.Inherit(f, res.Size, res.Implied, below)
		}
		if err != nil {
			t.Fatal(err)
		}
		below = append(below, check(t, f))
		if images = append(images, f); res.OpaqueRoot {
			images, below = images[len(images)-1:], below[len(below)-1:]
		}
	}
	return images
}

// overlaid lists what the kernel's overlay shows of layers.
func overlaid(t *testing.T, items [][]Item) (lines []string) {
	t.Helper()
	var names []string
	for _, f := range unpacked(t, items) {
		names = append(names, f.Name())
	}
	if len(names) == 1 { // an overlay has two or more
		names = append([]string{unpack(t, Archive(t)).Name()}, names...)
	}
	dir := t.TempDir()
	mounted(t, names, func(dirs []string) error {
		slices.Reverse(dirs)
		if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(dirs, ":")); err != nil {
			return fmt.Errorf("mount the overlay: %w", err)
		}
		var err error
		lines, err = listing(dir)
		return errors.Join(err, unix.Unmount(dir, 0))
	})
	return withoutLinks(lines)
}

func mergedImage(t *testing.T, items [][]Item) *os.File {
	t.Helper()
	var blobs []layer.Blob
	for _, layerItems := range items {
		blobs = append(blobs, layer.Blob{Reader: bytes.NewReader(Archive(t, layerItems...)), MediaType: Tar})
	}
	f := NewImage(t)
	res, err := layer.Merge(t.Context(), blobs, f, layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.DiffIDs) != len(items) || len(res.Implied) > 0 || res.OpaqueRoot {
		t.Errorf("merged: %+v", res)
	}
	return f
}

// exported lists a folder that images are exported to.
func exported(t *testing.T, images []*os.File) []string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "rootfs")
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	made, err := layer.Export(t.Context(), images, dir)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := listing(name)
	if err != nil {
		t.Fatal(err)
	}
	if int(made.Entries) != len(lines)-1 || made.DroppedXattrs > 0 {
		t.Errorf("Export says %+v of %d entries", made, len(lines)-1)
	}
	if _, err := layer.Export(t.Context(), images, dir); len(lines) > 1 && !errors.Is(err, layer.ErrNotEmpty) {
		t.Errorf("again: %v, want ErrNotEmpty", err)
	}
	return lines
}
