package erofs

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// ReadDir reads a folder's entries, in the order of their names, without "."
// and "..".
func (m *Image) ReadDir(i Info) ([]Dirent, error) {
	entries, err := m.readDir(i)
	if err != nil {
		return nil, err
	}
	visible := entries[:0]
	for _, e := range entries {
		if e.Name != "." && e.Name != ".." {
			visible = append(visible, e)
		}
	}
	return visible, nil
}

// readDir reads all entries.
func (m *Image) readDir(i Info) ([]Dirent, error) {
	if i.Type != unix.S_IFDIR {
		return nil, fmt.Errorf("inode %d is no folder: type %#o: %w", i.NID, i.Type, ErrCorrupt)
	}
	var entries []Dirent
	data := m.Data(i)
	for rest, block := i.Size, make([]byte, BlockSize); rest > 0; {
		b := block[:min(rest, BlockSize)]
		if _, err := io.ReadFull(data, b); err != nil {
			return nil, fmt.Errorf("folder %d: %w", i.NID, err)
		}
		rest -= int64(len(b))
		var err error
		if entries, err = decodeDir(b, entries); err != nil {
			return nil, fmt.Errorf("folder %d: %w", i.NID, err)
		}
	}
	return entries, nil
}

// decodeDir appends the entries of one block of a folder.
func decodeDir(b []byte, entries []Dirent) ([]Dirent, error) {
	if len(b) < direntSize {
		return nil, fmt.Errorf("block of %d bytes: %w", len(b), ErrCorrupt)
	}
	// The first name follows the last entry.
	end := int(le.Uint16(b[8:]))
	if end == 0 || end%direntSize != 0 || end > len(b) {
		return nil, fmt.Errorf("first name at %d: %w", end, ErrCorrupt)
	}
	for at := 0; at < end; at += direntSize {
		from, to := int(le.Uint16(b[at+8:])), len(b)
		if at+direntSize < end {
			to = int(le.Uint16(b[at+direntSize+8:]))
		}
		if from < end || to < from || to > len(b) {
			return nil, fmt.Errorf("name from %d to %d: %w", from, to, ErrCorrupt)
		}
		name := string(b[from:to])
		if at+direntSize == end {
			name, _, _ = strings.Cut(name, "\x00")
		}
		e := Dirent{Name: name, NID: le.Uint64(b[at:]), Type: typeOf(b[at+10])}
		if name == "" || len(name) > MaxName || strings.ContainsAny(name, "/\x00") || e.Type == 0 {
			return nil, fmt.Errorf("entry %.80q of type %d: %w", name, b[at+10], ErrCorrupt)
		}
		if n := len(entries); n > 0 && entries[n-1].Name >= name {
			return nil, fmt.Errorf("%q after %q: %w", name, entries[n-1].Name, ErrCorrupt)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// ErrNotFound says that an image has nothing of that name.
var ErrNotFound = errors.New("no such file in the image")

// Lookup finds a name in a folder.
//
// Errors: ErrNotFound as well.
func (m *Image) Lookup(dir Info, name string) (Info, error) {
	if dir.Type != unix.S_IFDIR {
		return Info{}, fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	blocks := (dir.Size + BlockSize - 1) / BlockSize
	block := make([]byte, BlockSize)
	for low, high := int64(0), blocks; low < high; {
		mid := (low + high) / 2
		b := block[:min(BlockSize, dir.Size-mid*BlockSize)]
		e, err := m.extent(dir, mid*BlockSize)
		if err == nil {
			err = m.read(b, e.Physical)
		}
		if err != nil {
			return Info{}, err
		}
		entries, err := decodeDir(b, nil)
		if err != nil {
			return Info{}, fmt.Errorf("folder %d: %w", dir.NID, err)
		}
		switch {
		case name < entries[0].Name:
			high = mid
		case name > entries[len(entries)-1].Name:
			low = mid + 1
		default:
			for _, e := range entries {
				if e.Name == name {
					return m.Info(e.NID)
				}
			}
			low = high
		}
	}
	return Info{}, fmt.Errorf("%q: %w", name, ErrNotFound)
}
