package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// files are the files of an image: those of a folder, or of an archive.
type files interface {
	// open gives a file and its size. The error is fs.ErrNotExist for none.
	open(name string) (io.ReadSeekCloser, int64, error)
	close() error
}

// readAll reads a file of at most limit bytes.
func readAll(f files, name string, limit int64) ([]byte, error) {
	r, size, err := f.open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	defer r.Close()
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes: expected at most %d", name, size, limit)
	}
	text := make([]byte, size)
	if _, err := io.ReadFull(r, text); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return text, nil
}

// folder is a folder of the host. No symlink leads out of it.
type folder struct{ root *os.Root }

func openFolder(path string) (folder, error) {
	root, err := os.OpenRoot(path)
	return folder{root}, err
}

func (f folder) open(name string) (io.ReadSeekCloser, int64, error) {
	file, err := f.root.Open(name)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a file", name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

func (f folder) close() error { return f.root.Close() }

// tarball is a tar that is read at any place.
type tarball struct {
	file    *os.File
	remove  string // of what was decompressed
	entries map[string]section
	links   map[string]string
}

// section is where the content of an entry is.
type section struct{ at, size int64 }

// maxEntries is how many entries an archive may have: a layer has two or three.
const maxEntries = 100_000

// openTarball reads the names of an archive. One that is compressed is decompressed into tmp
// first.
func openTarball(path, tmp string) (*tarball, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	t := &tarball{file: file, entries: map[string]section{}, links: map[string]string{}}
	if err = t.inflate(tmp); err == nil {
		err = t.scan()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), t.close())
	}
	return t, nil
}

// inflate replaces a compressed file by what is in it.
func (t *tarball) inflate(tmp string) error {
	r, compression, err := decompress(t.file)
	if err != nil {
		return err
	}
	defer r.Close()
	if compression == none {
		_, err := t.file.Seek(0, io.SeekStart)
		return err
	}
	plain, err := os.CreateTemp(tmp, "archive-*")
	if err != nil {
		return err
	}
	t.remove = plain.Name()
	compressed := t.file
	t.file = plain
	defer compressed.Close()
	if _, err := io.Copy(plain, r); err != nil {
		return err
	}
	_, err = plain.Seek(0, io.SeekStart)
	return err
}

func (t *tarball) scan() error {
	r := tar.NewReader(t.file) // which seeks over the content
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n >= maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		name := path.Clean("/" + h.Name)[1:]
		switch h.Typeflag {
		case tar.TypeReg:
			at, err := t.file.Seek(0, io.SeekCurrent)
			if err != nil {
				return err
			}
			t.entries[name] = section{at, h.Size}
			delete(t.links, name)
		case tar.TypeSymlink:
			// docker save of old shares layers so.
			t.links[name] = path.Clean("/" + path.Dir(name) + "/" + h.Linkname)[1:]
			delete(t.entries, name)
		case tar.TypeLink:
			t.links[name] = path.Clean("/" + h.Linkname)[1:]
			delete(t.entries, name)
		}
	}
}

func (t *tarball) open(name string) (io.ReadSeekCloser, int64, error) {
	name = path.Clean("/" + name)[1:]
	for range 8 {
		to, ok := t.links[name]
		if !ok {
			break
		}
		name = to
	}
	s, ok := t.entries[name]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return nopCloser{io.NewSectionReader(t.file, s.at, s.size)}, s.size, nil
}

func (t *tarball) close() error {
	err := t.file.Close()
	if t.remove != "" {
		err = errors.Join(err, os.Remove(t.remove))
	}
	return err
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// The compressions, as they end a media type.
const (
	none       = ""
	gzipped    = "+gzip"
	zstandard  = "+zstd"
	maxDecoder = 128 << 20 // bytes that a zstd stream may ask for
)

var magics = map[string]string{"\x1f\x8b\x08": gzipped, "\x28\xb5\x2f\xfd": zstandard}

// unsupported are compressions that archives are known to have.
var unsupported = map[string]string{"BZh": "bzip2", "\xfd7zXZ\x00": "xz"}

// decompress finds out how a stream is compressed, and gives what is in it.
func decompress(r io.Reader) (io.ReadCloser, string, error) {
	b := bufio.NewReaderSize(r, 256<<10)
	head, err := b.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, none, err
	}
	for magic, name := range unsupported {
		if bytes.HasPrefix(head, []byte(magic)) {
			return nil, none, fmt.Errorf("compressed by %s: expected gzip, zstd, or none", name)
		}
	}
	for magic, compression := range magics {
		if !strings.HasPrefix(string(head), magic) {
			continue
		}
		if compression == gzipped {
			z, err := gzip.NewReader(b)
			return z, compression, err
		}
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxDecoder), zstd.WithDecoderMaxWindow(maxDecoder))
		if err != nil {
			return nil, none, err
		}
		return z.IOReadCloser(), compression, nil
	}
	return io.NopCloser(b), none, nil
}
