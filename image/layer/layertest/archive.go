// Package layertest makes layers for tests, and says what an image shows.
package layertest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"testing"
	"time"
)

// Media types of layers.
const (
	Tar  = "application/vnd.oci.image.layer.v1.tar"
	Gzip = "application/vnd.oci.image.layer.v1.tar+gzip"
	Zstd = "application/vnd.oci.image.layer.v1.tar+zstd"
)

// Time is that of all entries that have no other; it has nanoseconds.
var Time = time.Unix(1700000000, 123456789)

// Item is an entry of a layer, with its data.
type Item struct {
	tar.Header
	Data string
}

// Option changes an entry.
type Option func(*tar.Header)

// Mode sets the permissions; otherwise they are 0755 for folders and 0644.
func Mode(mode int64) Option { return func(h *tar.Header) { h.Mode = mode } }

// Owner sets who owns the entry; otherwise root does.
func Owner(uid, gid int) Option { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }

// At sets the time of modification.
func At(t time.Time) Option { return func(h *tar.Header) { h.ModTime = t } }

// Xattr sets an extended attribute.
func Xattr(name, value string) Option { return Record("SCHILY.xattr."+name, value) }

// Record sets a PAX record.
func Record(name, value string) Option {
	return func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[name] = value
	}
}

// Entry makes an entry of any type.
func Entry(name string, kind byte, data string, options ...Option) Item {
	h := tar.Header{Name: name, Typeflag: kind, Mode: 0o644, Size: int64(len(data)), ModTime: Time, Format: tar.FormatPAX}
	if kind == tar.TypeDir {
		h.Mode = 0o755
	}
	for _, o := range options {
		o(&h)
	}
	return Item{h, data}
}

// File makes a regular file.
func File(name, data string, options ...Option) Item {
	return Entry(name, tar.TypeReg, data, options...)
}

// Dir makes a folder.
func Dir(name string, options ...Option) Item { return Entry(name, tar.TypeDir, "", options...) }

// Symlink makes a symbolic link.
func Symlink(name, target string, options ...Option) Item {
	return Entry(name, tar.TypeSymlink, "", append(options, func(h *tar.Header) { h.Linkname = target })...)
}

// Link makes a hard link.
func Link(name, target string) Item {
	return Entry(name, tar.TypeLink, "", func(h *tar.Header) { h.Linkname = target })
}

// Node makes a device or pipe; the kind is that of package tar.
func Node(name string, kind byte, major, minor int64, options ...Option) Item {
	return Entry(name, kind, "", append(options, func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor })...)
}

// Archive makes an uncompressed layer.
func Archive(t testing.TB, items ...Item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		if err := w.WriteHeader(&i.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(i.Data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Compress compresses a layer with gzip.
func Compress(t testing.TB, layer []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(layer); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
