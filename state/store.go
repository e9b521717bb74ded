package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// The folders of a store.
const (
	containersDir = "containers"
	sandboxesDir  = "sandboxes"
	operationsDir = "operations"
	// sandboxLocksDir is not in sandboxesDir: who waits for a lock outlives the
	// sandbox's folder.
	sandboxLocksDir = "sandbox-locks"
)

// Store is a folder with records. It holds nothing open: a Store needs no
// closing, and may be used by any number of goroutines and processes. Who
// changes a record has an Operation under way with its id.
type Store struct{ root string }

// Open gives the store at root. It makes root absolute and touches nothing:
// folders are made, with mode 0700, when something is written.
func Open(root string) (*Store, error) {
	if root == "" {
		return nil, errors.New("open state: no root folder given")
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open state %s: %w", root, err)
	}
	return &Store{root: abs}, nil
}

// Root is the absolute path of the store.
func (s *Store) Root() string { return s.root }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// open opens the folder rel, which lies below the root and is reached without
// following a symlink. The error is fs.ErrNotExist when there is none.
func (s *Store) open(rel ...string) (*os.File, error) {
	root, err := os.OpenFile(s.root, unix.O_DIRECTORY|os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	path := s.path(rel...)
	fd, err := unix.Openat2(int(root.Fd()), filepath.Join(rel...), &unix.OpenHow{
		Flags:   unix.O_DIRECTORY | unix.O_RDONLY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// makeKind makes the folder of one kind of thing where it is missing, and
// opens it.
func (s *Store) makeKind(kind string) (*os.File, error) {
	dir, err := s.open(kind)
	if !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, err
	}
	if err := os.Mkdir(s.path(kind), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return s.open(kind)
}

// makeDir is makeKind for the folder of one id. It reports whether the folder is
// new.
func (s *Store) makeDir(kind, id string) (dir *os.File, fresh bool, err error) {
	parent, err := s.makeKind(kind)
	if err != nil {
		return nil, false, err
	}
	defer parent.Close()
	if err := failpoint.Here(failpoint.StateFolder); err != nil {
		return nil, false, err
	}
	switch err := unix.Mkdirat(int(parent.Fd()), id, 0o700); {
	case err == nil:
		fresh = true
		if err := parent.Sync(); err != nil {
			return nil, false, errors.Join(err, unix.Unlinkat(int(parent.Fd()), id, unix.AT_REMOVEDIR))
		}
	case !errors.Is(err, unix.EEXIST):
		return nil, false, &os.PathError{Op: "mkdir", Path: s.path(kind, id), Err: err}
	}
	dir, err = s.open(kind, id)
	return dir, fresh, err
}

// names lists the folders of one kind whose names are ids, sorted.
func (s *Store) names(kind string) ([]string, error) {
	dir, err := s.open(kind)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && ValidateID(e.Name()) == nil {
			ids = append(ids, e.Name())
		}
	}
	slices.Sort(ids)
	return ids, nil
}

// remove removes the folder of one id, and in it the files for which known is
// true, the record last. It gives an error that names what else is in there,
// and then removes nothing. There being nothing to remove is no error.
func (s *Store) remove(kind, id, record string, known func(fs.DirEntry) bool) error {
	parent, err := s.open(kind)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	dir, err := s.open(kind, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return err
	}
	var ours, foreign []string
	for _, e := range entries {
		switch {
		case e.Name() == record && !e.IsDir():
		case known(e):
			ours = append(ours, e.Name())
		default:
			foreign = append(foreign, e.Name())
		}
	}
	if len(foreign) > 0 {
		slices.Sort(foreign)
		return fmt.Errorf("%s: not made by vc-runtime: %s", dir.Name(), strings.Join(foreign, ", "))
	}
	for _, name := range append(ours, record) {
		if err := unlink(dir, name, 0); err != nil {
			return err
		}
	}
	return unlink(parent, id, unix.AT_REMOVEDIR)
}

// unlink removes one name from a folder; a missing one is no error.
func unlink(dir *os.File, name string, flags int) error {
	if err := failpoint.Here(failpoint.StateRemove); err != nil {
		return err
	}
	err := unix.Unlinkat(int(dir.Fd()), name, flags)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return nil
}
