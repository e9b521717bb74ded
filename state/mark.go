package state

import "path/filepath"

// Mark says of what is not below a root, a machine or a cgroup, that it is of that
// root, and which id it was made for. root is an absolute path (Store.Root).
func Mark(root, id string) string { return filepath.Join(root, id) }

// Marked takes a mark apart. root is "" where there is none: nothing tells then
// whose a thing is.
func Marked(mark string) (root, id string) {
	if !filepath.IsAbs(mark) {
		return "", ""
	}
	return filepath.Dir(mark), filepath.Base(mark)
}
