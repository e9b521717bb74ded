package store

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// step runs do between the two calls of the hook.
func (s *Store) step(name string, do func() error) error {
	if s.opts.Hook == nil {
		return do()
	}
	if err := s.opts.Hook(name + ":before"); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := do(); err != nil {
		return err
	}
	if err := s.opts.Hook(name + ":after"); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// syncFile writes a file's content, and what is needed to read it, to the disk.
func (s *Store) syncFile(what string, f *os.File) error {
	if s.opts.Sync == SyncOff {
		return nil
	}
	return s.step(what+".fdatasync", func() error {
		for {
			err := unix.Fdatasync(int(f.Fd()))
			if !errors.Is(err, unix.EINTR) {
				return wrap("fdatasync", f.Name(), err)
			}
		}
	})
}

// syncDir writes a folder's names to the disk.
func (s *Store) syncDir(what, dir string) error {
	if s.opts.Sync == SyncOff {
		return nil
	}
	return s.step(what+".fsync-dir", func() error {
		d, err := os.Open(dir)
		if err != nil {
			return err
		}
		return errors.Join(d.Sync(), d.Close())
	})
}

// rename puts what is complete, and on the disk, at its place, and that on the
// disk as well.
func (s *Store) rename(what, from, to string) error {
	if err := s.step(what+".rename", func() error { return os.Rename(from, to) }); err != nil {
		return err
	}
	return s.syncDir(what, filepath.Dir(to))
}

// replace writes a record: aside, synced, renamed into place. The caller has
// the store's lock, shared, so that a file aside which the collector sees is
// one that a killed process has left.
func (s *Store) replace(what, dir, name string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	aside := filepath.Join(dir, asidePrefix+newID())
	if err := s.writeFile(what, aside, append(text, '\n')); err != nil {
		os.Remove(aside)
		return err
	}
	if err := s.rename(what, aside, filepath.Join(dir, name)); err != nil {
		os.Remove(aside)
		return err
	}
	return nil
}

// asidePrefix begins the name of a record that is being written.
const asidePrefix = "."

// newID is the name of something that only has to differ from all others.
func newID() string { return strings.ToLower(rand.Text()) }

// writeFile makes a file and syncs it.
func (s *Store) writeFile(what, path string, text []byte) error {
	return s.step(what+".write", func() error {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(text); err != nil {
			return err
		}
		if err := s.syncFile(what, f); err != nil {
			return err
		}
		return f.Close()
	})
}

// mkdirAll is os.MkdirAll with each new folder synced into its parent.
func (s *Store) mkdirAll(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		if err := s.mkdirAll(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, 0o700)
	}
	switch {
	case errors.Is(err, fs.ErrExist):
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			return errors.Join(err, wrap("mkdir", dir, unix.ENOTDIR))
		}
		return nil
	case err != nil:
		return err
	}
	return s.syncDir("mkdir", filepath.Dir(dir))
}

// wrap names the call and the file of an error; nil stays nil.
func wrap(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}
