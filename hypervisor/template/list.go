package template

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// ErrUnknown is that there is no template of that name.
var ErrUnknown = errors.New("no such template")

// Info describes a template of a store.
type Info struct {
	Name    string
	Machine hypervisor.Config
	Created time.Time
	Used    time.Time // the last time
	Size    int64     // bytes on disk, without holes
	InUse   bool      // a clone of it lives
	// Useless says why nobody can use it any more; "" for one that can be used.
	Useless string
}

// List describes all templates, the one used last first.
func (s *Store) List() ([]Info, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	var all []Info
	for _, entry := range entries {
		if !entry.IsDir() || strings.HasPrefix(entry.Name(), asidePrefix) {
			continue
		}
		info, err := s.describe(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("templates: %w", err)
		}
		all = append(all, *info)
	}
	slices.SortFunc(all, func(a, b Info) int { return b.Used.Compare(a.Used) })
	return all, nil
}

func (s *Store) describe(name string) (*Info, error) {
	dir := filepath.Join(s.dir, name)
	st, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	info := &Info{Name: name, Used: st.ModTime(), InUse: inUse(dir)}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, f.Name()), &st); err == nil {
			info.Size += st.Blocks * 512
		}
	}
	m, err := readMeta(dir)
	if err != nil {
		info.Useless = "damaged"
		return info, nil
	}
	info.Machine = m.Key.Machine
	if st, err := os.Stat(filepath.Join(dir, metaName)); err == nil {
		info.Created = st.ModTime()
	}
	info.Useless, err = m.useless()
	if err != nil {
		return nil, err
	}
	if _, err := read(dir, m.Key); err != nil && info.Useless == "" {
		info.Useless = "damaged"
	}
	// read has noted a use, which this was not.
	return info, os.Chtimes(dir, st.ModTime(), st.ModTime())
}

// useless says why nobody can ask for a template any more; "" if one can.
func (m *meta) useless() (string, error) {
	boot, err := bootID()
	switch {
	case err != nil:
		return "", err
	case m.Key.Version != version:
		return "of another version", nil
	case m.Key.BootID != boot:
		return "of an earlier boot of the host", nil
	}
	for _, f := range m.Key.Files {
		if now, err := describe(f.Path); err != nil || now != f {
			return filepath.Base(f.Path) + " has changed", nil
		}
	}
	return "", nil
}

// RemoveNamed takes away the template whose name is, or begins with, the given
// one. Machines that were cloned from it are not disturbed. It gives the name,
// or ErrUnknown.
func (s *Store) RemoveNamed(ctx context.Context, prefix string) (string, error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	all, err := s.List()
	if err != nil {
		return "", err
	}
	var found []string
	for _, info := range all {
		if prefix != "" && strings.HasPrefix(info.Name, prefix) {
			found = append(found, info.Name)
		}
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("template %q: %w", prefix, ErrUnknown)
	case 1:
		return found[0], s.drop(filepath.Join(s.dir, found[0]))
	default:
		return "", fmt.Errorf("template %q: there are %d whose names begin so", prefix, len(found))
	}
}

// Collect removes what is of no use any more, and gives the names of the
// templates that it has removed.
func (s *Store) Collect(ctx context.Context) ([]string, error) {
	lock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	removed, err := s.collect()
	making := flock.New(filepath.Join(s.dir, makingName))
	defer making.Close()
	if free, tryErr := making.TryLock(); tryErr != nil || !free {
		return removed, errors.Join(err, tryErr) // what is aside is being made
	}
	return removed, errors.Join(err, s.sweep())
}

// Use says that a machine was cloned from the template, until it is closed or
// the process ends.
func (e *Entry) Use() (*os.File, error) {
	f, err := os.Open(e.dir)
	if err != nil {
		return nil, fmt.Errorf("use template: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		f.Close()
		return nil, fmt.Errorf("use template: lock: %w", err)
	}
	return f, nil
}

// Name is that under which the template is listed.
func (e *Entry) Name() string { return filepath.Base(e.dir) }

// inUse reports whether anybody holds a use of the template in dir.
func inUse(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close() // and the lock
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
}
