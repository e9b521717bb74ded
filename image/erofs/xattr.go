package erofs

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrXattr says that an image cannot hold an extended attribute.
var ErrXattr = errors.New("extended attribute that an image cannot hold")

// XattrSupported tells whether an image can hold extended attributes of that
// name: those with one of the prefixes user., trusted. and security., and the
// two POSIX access control lists.
func XattrSupported(name string) bool {
	_, _, ok := splitXattr(name)
	return ok
}

// splitXattr splits a name into the index of its prefix and the rest.
func splitXattr(name string) (index uint8, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, found := strings.CutPrefix(name, p.prefix)
		if !found {
			continue
		}
		// A prefix with a dot wants a name, a whole name allows none.
		ok := len(rest) <= 255 && (rest != "") == strings.HasSuffix(p.prefix, ".")
		return p.index, rest, ok && !strings.Contains(rest, "\x00")
	}
	return 0, "", false
}

// encodeXattrs makes the part of an inode that holds its extended attributes.
func encodeXattrs(xattrs []Xattr) ([]byte, error) {
	if len(xattrs) == 0 {
		return nil, nil
	}
	sorted := slices.Clone(xattrs)
	slices.SortFunc(sorted, func(a, b Xattr) int { return cmp.Compare(a.Name, b.Name) })
	b := make([]byte, xattrHeaderSize)
	for i, x := range sorted {
		index, rest, ok := splitXattr(x.Name)
		if !ok || len(x.Value) > MaxXattr {
			return nil, fmt.Errorf("%q of %d bytes: %w", x.Name, len(x.Value), ErrXattr)
		}
		if i > 0 && sorted[i-1].Name == x.Name {
			return nil, fmt.Errorf("%q twice: %w", x.Name, ErrXattr)
		}
		b = append(b, uint8(len(rest)), index)
		b = le.AppendUint16(b, uint16(len(x.Value)))
		b = append(append(b, rest...), x.Value...)
		b = append(b, make([]byte, roundUp(len(b), 4)-len(b))...)
	}
	if xattrCount(len(b)) > 1<<16-1 {
		return nil, fmt.Errorf("%d attributes of %d bytes: %w", len(xattrs), len(b), ErrXattr)
	}
	return b, nil
}

// xattrCount is an inode's i_xattr_icount for a part of n bytes.
func xattrCount(n int) int {
	if n == 0 {
		return 0
	}
	return (n-xattrHeaderSize)/4 + 1
}

// xattrSize is the other way round.
func xattrSize(count uint16) int {
	if count == 0 {
		return 0
	}
	return xattrHeaderSize + 4*(int(count)-1)
}

// decodeXattrs reads what encodeXattrs makes.
func decodeXattrs(b []byte) ([]Xattr, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if shared := b[4]; shared != 0 {
		return nil, fmt.Errorf("%d shared extended attributes, want none: %w", shared, ErrCorrupt)
	}
	var xattrs []Xattr
	for b = b[xattrHeaderSize:]; len(b) > 0; {
		nameLen, index, valueLen := int(b[0]), b[1], int(le.Uint16(b[2:]))
		end := xattrEntrySize + nameLen + valueLen
		if end > len(b) {
			return nil, fmt.Errorf("extended attribute beyond its inode: %w", ErrCorrupt)
		}
		name := string(b[xattrEntrySize : xattrEntrySize+nameLen])
		for _, p := range xattrPrefixes {
			if p.index == index {
				name = p.prefix + name
			}
		}
		if !XattrSupported(name) {
			return nil, fmt.Errorf("extended attribute %q with prefix %d: %w", name, index, ErrCorrupt)
		}
		xattrs = append(xattrs, Xattr{Name: name, Value: slices.Clone(b[xattrEntrySize+nameLen : end])})
		b = b[min(roundUp(end, 4), len(b)):]
	}
	return xattrs, nil
}
