package erofs

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

// sample is an image with one of each.
func sample(t testing.TB) *memory {
	t.Helper()
	var f memory
	w, root := NewWriter(&f), &Dir{Attr: attr(2), Changeable: true}
	holes := make([]byte, 5*pieceSize)
	fill(holes[pieceSize : pieceSize+100])
	root.Set("holes", mustFile(t, w, attr(1), holes))
	root.Set("small", mustFile(t, w, Attr{Xattrs: []Xattr{{"user.a", []byte("value")}}}, []byte("small")))
	root.Set("large", mustFile(t, w, attr(3), bytes.Repeat([]byte("large"), 2000)))
	link, err := w.Symlink(attr(1), "target")
	if err != nil {
		t.Fatal(err)
	}
	dev, err := w.Node(attr(1), unix.S_IFBLK, 8, 1)
	if err != nil {
		t.Fatal(err)
	}
	root.Set("link", Entry{Inode: link})
	d := &Dir{Attr: attr(1)}
	d.Set("dev", Entry{Inode: dev})
	d.Set("large", root.Get("large"))
	d.Set("sub", Entry{Dir: &Dir{}})
	root.Set("dir", Entry{Dir: d})
	mustClose(t, w, root)
	return &f
}

// TestCorrupt: damage is found.
func TestCorrupt(t *testing.T) {
	good := sample(t)
	m := good.open(t)
	at := func(name string) int64 { return mustLookup(t, m, name).offset }
	put16, put32, put64 := le.PutUint16, le.PutUint32, le.PutUint64
	// tail is where the data of a folder with inline data begins.
	tail := func(name string) int64 { return m.after(mustLookup(t, m, name)) }
	for _, c := range []struct {
		name   string
		damage func(b []byte)
	}{
		{"magic number", func(b []byte) { b[superOffset]++ }},
		{"checksum", func(b []byte) { b[superOffset+4]++ }},
		{"block size", func(b []byte) { b[superOffset+12] = 9 }},
		{"features", func(b []byte) { put32(b[superOffset+80:], 1) }},
		{"more blocks than there are", func(b []byte) { put32(b[superOffset+36:], 1<<20) }},
		{"fewer blocks", func(b []byte) { put32(b[superOffset+36:], 2) }},
		{"inodes", func(b []byte) { b[superOffset+16]++ }},
		{"root beyond the image", func(b []byte) { put16(b[superOffset+14:], 0xffff) }},
		{"root is a file", func(b []byte) { put16(b[superOffset+14:], uint16(at("small")/slotSize)) }},
		{"metadata elsewhere", func(b []byte) { put32(b[superOffset+40:], 0xffffffff) }},
		{"type", func(b []byte) { put16(b[at("small")+4:], 0o644) }},
		{"type is not that of the name", func(b []byte) { put16(b[at("small")+4:], unix.S_IFIFO) }},
		{"layout", func(b []byte) { b[at("small")] = 3 << 1 }},
		{"links", func(b []byte) { b[at("large")+44]++ }},
		{"links of a folder", func(b []byte) { b[at("dir")+6]++ }},
		{"time", func(b []byte) { put32(b[at("large")+40:], 1e9) }},
		{"negative size", func(b []byte) { put64(b[at("large")+8:], 1<<63) }},
		{"size beyond the image", func(b []byte) { put64(b[at("large")+8:], 1<<30) }},
		{"size beyond the format", func(b []byte) { put64(b[at("large")+8:], 1<<60) }},
		{"address beyond the image", func(b []byte) { put32(b[at("large")+16:], 1<<30) }},
		{"address in metadata", func(b []byte) { put32(b[at("large")+16:], 0) }},
		{"inline data beyond its block", func(b []byte) { put64(b[at("small")+8:], 4095) }},
		{"more attributes", func(b []byte) { put16(b[at("small")+2:], 0xffff) }},
		{"shared attributes", func(b []byte) { b[at("small")+extendedSize+4] = 1 }},
		{"prefix of an attribute", func(b []byte) { b[at("small")+extendedSize+xattrHeaderSize+1] = 9 }},
		{"value of an attribute beyond it", func(b []byte) { put16(b[at("small")+extendedSize+xattrHeaderSize+2:], 999) }},
		{"device with data", func(b []byte) { put32(b[at("dir/dev")+8:], 5) }},
		{"symlink to nothing", func(b []byte) { put32(b[at("link")+8:], 0) }},
		{"long symlink", func(b []byte) { b[at("link")] = 0; put32(b[at("link")+8:], 5000); put32(b[at("link")+16:], 1) }},
		{"size of chunks", func(b []byte) { put32(b[at("holes")+16:], 0x20) }},
		{"more chunks than the table has", func(b []byte) { put32(b[at("holes")+16:], 0) }},
		{"chunk beyond the image", func(b []byte) { put32(b[tail("holes")+4:], 1<<20) }},
		{"chunk of another file", func(b []byte) { put32(b[tail("holes"):], le.Uint32(b[tail("holes")+4:])) }},
		{"chunked symlink", func(b []byte) { b[at("link")] = layoutChunks << 1; put32(b[at("link")+16:], 4) }},
		{"first name", func(b []byte) { put16(b[tail("dir")+8:], 13) }},
		{"first name beyond the folder", func(b []byte) { put16(b[tail("dir")+8:], 4092) }},
		{"no entry", func(b []byte) { put16(b[tail("dir")+8:], 0) }},
		{"name before the last one", func(b []byte) { put16(b[tail("dir")+direntSize+8:], 0) }},
		{"name beyond the folder", func(b []byte) { put16(b[tail("dir")+direntSize+8:], 4000) }},
		{"type of a name", func(b []byte) { b[tail("dir")+10] = 99 }},
		{"dot is another", func(b []byte) { put64(b[tail("dir"):], uint64(at("dir/sub"))/slotSize) }},
		{"dot is missing", func(b []byte) { b[tail("dir")+5*direntSize] = '-' }},
		{"slash in a name", func(b []byte) { b[tail("dir")+5*direntSize+3] = '/' }},
		{"names out of order", func(b []byte) { b[tail("dir")+5*direntSize+3] = '+' }},
		{"folder in itself", func(b []byte) { put64(b[tail("dir")+4*direntSize:], uint64(at("dir"))/slotSize) }},
		{"folder twice", func(b []byte) { put64(b[tail("dir")+4*direntSize:], uint64(m.super.rootNID)) }},
		{"inode beyond the image", func(b []byte) { put64(b[tail("dir")+4*direntSize:], 1<<60) }},
		{"inode within another", func(b []byte) { put64(b[tail("dir")+2*direntSize:], uint64(at("dir/dev"))/slotSize+1) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := &memory{b: bytes.Clone(good.b)}
			c.damage(bad.b)
			if c.name != "checksum" {
				le.PutUint32(bad.b[superOffset+4:], checksum(bad.b[:BlockSize]))
			}
			if bytes.Equal(bad.b, good.b) {
				t.Fatal("nothing was changed")
			}
			m, err := Open(bad, int64(len(bad.b)))
			if err == nil {
				err = Check(t.Context(), m)
			}
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
		})
	}
	for _, size := range []int{0, 100, BlockSize - 1, BlockSize, len(good.b) - 1} {
		if _, err := Open(&memory{b: good.b[:size]}, int64(size)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%d of %d bytes: %v, want ErrCorrupt", size, len(good.b), err)
		}
	}
}

// TestSetAttr: the attributes of a folder are changed in place.
func TestSetAttr(t *testing.T) {
	f := sample(t)
	m := f.open(t)
	want := Attr{Mode: 0o1777, UID: 70000, GID: 5, Sec: -3, Nsec: 4}
	if err := SetAttr(f, mustLookup(t, m, ""), want); err != nil {
		t.Fatal(err)
	}
	got := mustLookup(t, f.open(t), "").Attr // opened again: with its checksum
	if got.Mode != want.Mode || got.UID != want.UID || got.GID != want.GID || got.Sec != want.Sec || got.Nsec != want.Nsec {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if err := SetAttr(f, mustLookup(t, m, "dir"), want); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a compact inode: %v, want ErrCorrupt", err)
	}
}

// FuzzImage: no image makes us crash or run for ever.
func FuzzImage(f *testing.F) {
	// Without the blocks of data, which say nothing.
	f.Add(sample(f).b[superOffset:])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = append(make([]byte, superOffset), b...)
		b = append(b, make([]byte, roundUp(len(b), BlockSize)-len(b))...)
		le.PutUint32(b[superOffset+4:], checksum(b[:BlockSize]))
		m, err := Open(&memory{b: b}, int64(len(b)))
		if err != nil {
			return
		}
		if err := Check(t.Context(), m); err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
			return
		}
		readAll(t, m, m.Root())
	})
}

// readAll reads everything below a folder that has been checked.
func readAll(t *testing.T, m *Image, nid uint64) {
	d, err := m.Info(nid)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := m.ReadDir(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		i, err := m.Lookup(d, e.Name)
		if err != nil || i.NID != e.NID {
			t.Fatalf("%q: inode %d, want %d, %v", e.Name, i.NID, e.NID, err)
		}
		switch i.Type {
		case unix.S_IFDIR:
			readAll(t, m, e.NID)
		case unix.S_IFREG:
			// A hole may be of any size.
			if _, err := io.CopyN(io.Discard, m.Data(i), min(i.Size, 1<<20)); err != nil {
				t.Fatalf("%q: %v", e.Name, err)
			}
		}
	}
}
