package erofs

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestXattrs: what there can be comes back, and the rest is refused.
func TestXattrs(t *testing.T) {
	long := bytes.Repeat([]byte("v"), MaxXattr)
	for _, c := range []struct {
		name   string
		xattrs []Xattr
		ok     bool
	}{
		{"each prefix", []Xattr{{"security.capability", []byte("c")}, {"system.posix_acl_access", []byte("a")},
			{"system.posix_acl_default", []byte("d")}, {"trusted.t", []byte("t")}, {"user.u", nil}}, true},
		{"longest", []Xattr{{"user." + strings.Repeat("n", 255), long}}, true},
		{"of more than 64 KiB", []Xattr{{"user.a", long}, {"user.b", long}}, true},
		{"too many", []Xattr{{"user.a", long}, {"user.b", long}, {"user.c", long}, {"user.d", long}, {"user.e", long}}, false},
		{"unknown prefix", []Xattr{{"system.nfs4_acl", nil}}, false},
		{"nothing but a prefix", []Xattr{{"user.", nil}}, false},
		{"more than a whole name", []Xattr{{"system.posix_acl_access2", nil}}, false},
		{"zero byte", []Xattr{{"user.a\x00b", nil}}, false},
		{"long name", []Xattr{{"user." + strings.Repeat("n", 256), nil}}, false},
		{"long value", []Xattr{{"user.a", append(long, 1)}}, false},
		{"twice", []Xattr{{"user.a", nil}, {"user.a", nil}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var f memory
			w, root := NewWriter(&f), &Dir{}
			i, err := w.Symlink(Attr{Xattrs: c.xattrs}, "target")
			if !c.ok {
				if !errors.Is(err, ErrXattr) {
					t.Errorf("error %v, want ErrXattr", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			root.Set("a", Entry{Inode: i})
			root.Set("b", Entry{Dir: &Dir{Attr: Attr{Xattrs: c.xattrs}}})
			mustClose(t, w, root)
			m := f.open(t)
			for _, name := range []string{"a", "b"} {
				got, err := m.Xattrs(mustLookup(t, m, name))
				same := func(a, b Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }
				if err != nil || !slices.EqualFunc(got, c.xattrs, same) {
					t.Errorf("%s: %.300q, %v", name, got, err)
				}
			}
			if target, err := m.Readlink(mustLookup(t, m, "a")); target != "target" || err != nil {
				t.Errorf("target %q, %v", target, err)
			}
		})
	}
}
