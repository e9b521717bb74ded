package erofs

import (
	"slices"
)

// Attr are the attributes of an inode.
type Attr struct {
	Mode     uint16 // permissions, with setuid, setgid and sticky: no type
	UID, GID uint32
	Sec      int64  // time of modification since 1970, in seconds
	Nsec     uint32 // and nanoseconds
	Xattrs   []Xattr
}

// Xattr is an extended attribute. Its name has the prefix: "user.mime_type".
type Xattr struct {
	Name  string
	Value []byte
}

// Inode is anything but a folder: written by a Writer, to be put into folders
// by as many names as it has hard links.
type Inode struct {
	nid      uint64
	links    uint32
	kind     uint16 // S_IFREG …
	extended bool
}

// Type is the type of the inode, as in the mode: unix.S_IFREG …
func (i *Inode) Type() uint16 { return i.kind }

// Entry is what a name in a folder stands for. One of the two is set; neither
// where there is no such name.
type Entry struct {
	Dir   *Dir
	Inode *Inode
}

// Exists tells whether the entry is one.
func (e Entry) Exists() bool { return e.Dir != nil || e.Inode != nil }

// Dir is a folder of an image that is being written. It lives in memory until
// Writer.Close. The zero value is an empty folder.
type Dir struct {
	Attr Attr
	// Changeable keeps room for SetAttr to set other attributes.
	Changeable bool
	entries    map[string]Entry

	// What Close works out.
	names   []string
	subdirs int
	nid     uint64
}

// Get returns what the name stands for.
func (d *Dir) Get(name string) Entry { return d.entries[name] }

// Set makes the name stand for e, whatever it stood for before.
func (d *Dir) Set(name string, e Entry) {
	if d.entries == nil {
		d.entries = make(map[string]Entry)
	}
	d.entries[name] = e
}

// Delete removes the name.
func (d *Dir) Delete(name string) { delete(d.entries, name) }

// Len is the number of names.
func (d *Dir) Len() int { return len(d.entries) }

// Names returns the names in the order of their bytes.
func (d *Dir) Names() []string {
	names := make([]string, 0, len(d.entries))
	for name := range d.entries {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
