package template

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// asidePrefix begins the names of folders that are being made or removed.
// Who holds the lock, and is the one that makes a template or knows that nobody
// does, knows that those that are there were left by a process that was killed.
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

// collect removes what is of no use any more, and all but the last ones used
// of what can be used, and gives the names of the templates that it has
// removed. The lock is held. What cannot be removed is tried again another time.
func (s *Store) collect() (removed []string, err error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	kept := 0
	var errs []error
	for _, t := range all {
		idle := !t.InUse && (kept >= keep || time.Since(t.Used) > keepFor)
		if t.Useless == "" && !idle {
			kept++
			continue
		}
		if err := s.drop(filepath.Join(s.dir, t.Name)); err != nil {
			errs = append(errs, err)
			continue
		}
		removed = append(removed, t.Name)
	}
	return removed, errors.Join(errs...)
}

// sweep removes what makers that were killed have left, and the marks of old
// failures. The lock is held, and nobody else makes a template.
func (s *Store) sweep() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		path := filepath.Join(s.dir, entry.Name())
		info, err := entry.Info()
		switch {
		case err != nil: // it has gone
		case strings.HasPrefix(entry.Name(), asidePrefix):
			errs = append(errs, os.RemoveAll(path))
		case strings.HasSuffix(entry.Name(), failedSuffix) && time.Since(info.ModTime()) > retryAfter:
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
