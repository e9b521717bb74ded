package cgroup

import (
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ownerAttr is the extended attribute of a cgroup's folder that says whose it
// is: nothing else can tell a cgroup that was left behind from somebody else's.
const ownerAttr = "trusted.vc-runtime"

// SetOwner says whose the cgroup is, before Create: the path of the state's
// root, and an id. It is for Owned to find.
func (c *Cgroup) SetOwner(owner string) { c.owner = owner }

// mark writes the owner down. A kernel that has no such attributes there only
// makes what is left behind harder to find.
func (g *Group) mark(owner string) {
	if owner != "" && g.Made {
		_ = unix.Setxattr(g.Dir, ownerAttr, []byte(owner), 0)
	}
}

// OwnedGroup is a cgroup that was made by the runtime.
type OwnedGroup struct {
	Dir   string
	Owner string // what SetOwner was given
}

// Owned finds all cgroups on the host that have an owner, those further down
// first.
func Owned() ([]OwnedGroup, error) {
	h, err := readHost()
	if errors.Is(err, ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []OwnedGroup
	for _, hy := range h {
		err := filepath.WalkDir(hy.mount, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return nil // it has just gone
			}
			if owner := ownerOf(path); owner != "" {
				found = append([]OwnedGroup{{path, owner}}, found...)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func ownerOf(dir string) string {
	buf := make([]byte, unix.PathMax+256)
	n, err := unix.Lgetxattr(dir, ownerAttr, buf)
	if err != nil {
		return ""
	}
	return string(buf[:n])
}
