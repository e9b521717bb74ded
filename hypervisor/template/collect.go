package template

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// asidePrefix begins the names of folders that are being made or removed.
// Who holds the lock knows that those that are there were left by a process
// that was killed.
const asidePrefix = ".aside-"

// What is kept of templates that are not asked for: the last ones used, in
// case configurations alternate.
const (
	keep    = 3
	keepFor = 7 * 24 * time.Hour
)

// Remove takes away a template that has turned out not to work. Machines that
// are being cloned from it are not disturbed.
func (s *Store) Remove(ctx context.Context, e *Entry) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return s.drop(e.dir)
}

// Reject is Remove for a template that has never worked: it is not made again
// at once.
func (s *Store) Reject(ctx context.Context, e *Entry) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return errors.Join(s.drop(e.dir), markFailed(e.dir))
}

// drop removes a folder in such a way that it is there whole or not at all.
func (s *Store) drop(dir string) error {
	aside := filepath.Join(s.dir, asidePrefix+filepath.Base(dir))
	if err := os.Rename(dir, aside); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.RemoveAll(aside)
}

// collect removes what is of no use any more, to make room for a new template.
// The lock is held. What cannot be removed is tried again another time.
func (s *Store) collect(wanted Key) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return
	}
	type used struct {
		dir string
		at  time.Time
	}
	var others []used
	for _, entry := range entries {
		path := filepath.Join(s.dir, entry.Name())
		info, err := entry.Info()
		switch {
		case err != nil:
		case strings.HasPrefix(entry.Name(), asidePrefix):
			os.RemoveAll(path)
		case !entry.IsDir():
			if strings.HasSuffix(entry.Name(), failedSuffix) && time.Since(info.ModTime()) > retryAfter {
				os.Remove(path)
			}
		case s.stale(path, wanted) || time.Since(info.ModTime()) > keepFor:
			s.drop(path)
		default:
			others = append(others, used{path, info.ModTime()})
		}
	}
	slices.SortFunc(others, func(a, b used) int { return b.at.Compare(a.at) })
	for i, o := range others {
		if i >= keep {
			s.drop(o.dir)
		}
	}
}

// stale reports whether nobody can ask for a template any more: the host has
// booted since, or the same paths hold another guest image or QEMU.
func (s *Store) stale(dir string, wanted Key) bool {
	m, err := readMeta(dir)
	if err != nil || m.Key.Version != wanted.Version || m.Key.BootID != wanted.BootID {
		return true
	}
	for _, f := range m.Key.Files {
		if now, err := describe(f.Path); err != nil || now != f {
			return true
		}
	}
	return false
}
