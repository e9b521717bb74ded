package build

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Modes of an entry, as in stat(2).
const (
	modeDir  = 0o040000
	modeFile = 0o100000
	modeChar = 0o020000
)

// entry is a file, folder or character device of the initrd.
type entry struct {
	name         string // in the guest, without a leading slash
	mode         uint32 // type and permissions
	data         []byte // of a file
	major, minor uint32 // of a device
}

func dir(name string, perm uint32) entry {
	return entry{name: name, mode: modeDir | perm}
}

// file takes name as a path in the guest.
func file(name string, perm uint32, data []byte) entry {
	return entry{name: strings.TrimPrefix(name, "/"), mode: modeFile | perm, data: data}
}

// cpio packs entries, and the folders they lie in, as a "newc" archive, the
// form of the kernel's initramfs (Documentation/driver-api/early-userspace/
// buffer-format.rst). The bytes depend on nothing but the entries: these are
// sorted, belong to root and have the time 0.
func cpio(entries []entry) ([]byte, error) {
	all, err := complete(entries)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	for i, e := range all {
		links := 1
		if e.mode&modeDir != 0 {
			links = 2
		}
		writeEntry(&buf, i+1, links, e)
	}
	writeEntry(&buf, 0, 1, entry{name: "TRAILER!!!"})
	pad(&buf, 512)
	return buf.Bytes(), nil
}

// complete adds the folders that are not among entries, and sorts: a folder's
// name is a prefix of what it holds, so it comes first.
func complete(entries []entry) ([]entry, error) {
	byName := make(map[string]entry, len(entries))
	for _, e := range entries {
		if e.name != path.Clean(e.name) || path.IsAbs(e.name) || strings.HasPrefix(e.name, "..") {
			return nil, fmt.Errorf("initrd: %q is not a clean relative path", e.name)
		}
		if _, dup := byName[e.name]; dup {
			return nil, fmt.Errorf("initrd: %q is there twice", e.name)
		}
		byName[e.name] = e
	}
	for _, e := range entries {
		for p := path.Dir(e.name); p != "."; p = path.Dir(p) {
			parent, ok := byName[p]
			if !ok {
				byName[p] = dir(p, 0o755)
			} else if parent.mode&modeDir == 0 {
				return nil, fmt.Errorf("initrd: %q is no folder, but holds %q", p, e.name)
			}
		}
	}
	all := make([]entry, 0, len(byName))
	for _, e := range byName {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

func writeEntry(buf *bytes.Buffer, ino, links int, e entry) {
	buf.WriteString("070701")
	for _, field := range []uint32{
		uint32(ino), e.mode,
		0, 0, // uid, gid
		uint32(links),
		0, // mtime
		uint32(len(e.data)),
		0, 0, // device that holds the file
		e.major, e.minor,
		uint32(len(e.name) + 1),
		0, // checksum: not in this form
	} {
		fmt.Fprintf(buf, "%08X", field)
	}
	buf.WriteString(e.name)
	buf.WriteByte(0)
	pad(buf, 4)
	buf.Write(e.data)
	pad(buf, 4)
}

// pad fills buf with zeros up to a multiple of n bytes.
func pad(buf *bytes.Buffer, n int) {
	if rest := buf.Len() % n; rest != 0 {
		buf.Write(make([]byte, n-rest))
	}
}
