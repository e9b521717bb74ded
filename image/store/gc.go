package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
)

// GCOptions are the choices of a collection.
type GCOptions struct {
	// Known says whether there is a container of this id; a pin without one
	// goes, unless its maker lives and may be about to make it. Nil keeps all
	// pins of this boot.
	Known func(container string) (bool, error)
}

// Report is what a collection has taken away.
type Report struct {
	Blobs    int   `json:"blobs"`
	Layers   int   `json:"layers"`
	Partials int   `json:"partials"` // downloads that nobody is at
	Pins     int   `json:"pins"`
	Leases   int   `json:"leases"` // of processes that have ended
	Bytes    int64 `json:"bytes"`
}

// Empty reports whether there was nothing to take away.
func (r Report) Empty() bool { return r == Report{} }

// GC takes away what neither an image, nor a pin, nor the lease of a living
// process names. Under the exclusive lock it only reads and renames; the
// removal comes after it. A record that cannot be read is an error, and
// nothing is taken away: it might name anything.
func (s *Store) GC(ctx context.Context, o GCOptions) (Report, error) {
	report, err := s.collect(ctx, o)
	err = errors.Join(err, s.emptyTrash(ctx))
	return report, wrapf("collect garbage", err)
}

func (s *Store) collect(ctx context.Context, o GCOptions) (Report, error) {
	var report Report
	meta, err := s.exclusive(ctx)
	if err != nil {
		return report, err
	}
	defer meta.release()
	c := &collector{s: s, report: &report, live: map[resource]bool{}}
	for _, do := range []func() error{
		c.images,
		func() error { return c.pins(o.Known) },
		c.leases,
		func() error { return s.step("gc.marked", func() error { return nil }) },
		c.partials,
		c.blobs,
		c.layers,
	} {
		if err := do(); err != nil {
			return report, err
		}
	}
	return report, nil
}

// sweep takes away what dead processes have left, and only that. It does
// nothing where others are at it, or at a record, just now: one of the next
// does it.
func (s *Store) sweep(ctx context.Context) error {
	f, err := openLock(s.path(metaFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := tryFlock(f, unix.LOCK_EX); errors.Is(err, errBusy) {
		return nil
	} else if err != nil {
		return err
	}
	c := &collector{s: s, report: new(Report), live: map[resource]bool{}}
	if err := c.leases(); err != nil {
		return err
	}
	f.Close() // the lock
	return s.emptyTrash(ctx)
}

// collector is one collection. The store is locked exclusively.
type collector struct {
	s      *Store
	report *Report
	live   map[resource]bool
}

func (c *collector) mark(rs []resource) {
	for _, r := range rs {
		c.live[r] = true
	}
}

func (c *collector) images() error {
	if err := c.aside(imagesDir); err != nil {
		return err
	}
	all, err := c.s.Images()
	for _, img := range all {
		c.mark(img.resources())
	}
	return err
}

func (c *collector) pins(known func(string) (bool, error)) error {
	if err := c.aside(containersDir); err != nil {
		return err
	}
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	all, err := c.s.Pins()
	if err != nil {
		return err
	}
	for _, p := range all {
		stale, err := p.stale(boot, known)
		if err != nil {
			return err
		}
		if !stale {
			c.mark(p.Image.resources())
			continue
		}
		c.report.Pins++
		if err := os.Remove(c.s.path(containersDir, p.Container+pinSuffix)); err != nil {
			return err
		}
	}
	return nil
}

// aside removes the records that a killed process has begun: who writes one
// has the store's lock, which we have now.
func (c *collector) aside(dir string) error {
	entries, err := os.ReadDir(c.s.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), asidePrefix) {
			if err := os.Remove(c.s.path(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// leases marks what living leases name. Of dead ones it takes away the file
// and the folder, and the locks of their work.
func (c *collector) leases() error {
	entries, err := os.ReadDir(c.s.path(leasesDir))
	if err != nil {
		return err
	}
	living := map[string]bool{}
	for _, e := range entries {
		named, dead, err := readLease(c.s.path(leasesDir, e.Name()))
		if err != nil {
			return err
		}
		if !dead {
			living[e.Name()] = true
			c.mark(named)
			continue
		}
		c.report.Leases++
		err = c.s.step("gc.unlink-lease", func() error { return os.Remove(c.s.path(leasesDir, e.Name())) })
		if err != nil && !missing(err) {
			return err
		}
	}
	entries, err = os.ReadDir(c.s.path(tmpDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !living[e.Name()] {
			if _, err := c.trash(c.s.path(tmpDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return c.locks()
}

// locks removes the files of locks that nobody has. Who waits for one finds
// it gone, and begins anew.
func (c *collector) locks() error {
	entries, err := os.ReadDir(c.s.path(locksDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		lock, err := c.s.tryKey(e.Name())
		switch {
		case errors.Is(err, errBusy):
		case err != nil:
			return err
		default:
			lock.release()
		}
	}
	return nil
}

// partials takes away downloads that nobody is at. The next pull would have
// carried them on; who collects garbage wants the space.
func (c *collector) partials() error {
	entries, err := os.ReadDir(c.s.path(partialDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		lock, err := c.s.tryKey(resource{blobKind, digest.NewDigestFromEncoded(digest.SHA256, e.Name())}.key())
		if errors.Is(err, errBusy) {
			continue
		}
		if err != nil {
			return err
		}
		took, err := c.trash(c.s.path(partialDir, e.Name()))
		lock.release()
		if err != nil {
			return err
		}
		if took {
			c.report.Partials++
		}
	}
	return nil
}

func (c *collector) blobs() error {
	return c.garbage(filepath.Join(blobsDir, digest.SHA256.String()), blobKind, &c.report.Blobs)
}

func (c *collector) layers() error { return c.garbage(layersDir, layerKind, &c.report.Layers) }

// garbage moves away what is in a folder and not marked.
func (c *collector) garbage(dir, kind string, count *int) error {
	entries, err := os.ReadDir(c.s.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		r := resource{kind, digest.NewDigestFromEncoded(digest.SHA256, e.Name())}
		if c.live[r] {
			continue
		}
		took, err := c.trash(c.s.path(dir, e.Name()))
		if err != nil {
			return err
		}
		if took {
			*count++
		}
	}
	return nil
}

// trash moves one thing away, and counts its bytes.
func (c *collector) trash(path string) (took bool, err error) {
	n, err := size(path)
	if err != nil {
		return false, err
	}
	err = c.s.step("gc.rename", func() error { return os.Rename(path, c.s.path(trashDir, newID())) })
	if missing(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	c.report.Bytes += n
	return true, nil
}

// size is how many bytes the files at a path have.
func size(path string) (n int64, err error) {
	err = filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreMissing(err)
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return ignoreMissing(err)
	})
	return n, err
}

func ignoreMissing(err error) error {
	if missing(err) {
		return nil
	}
	return err
}

// emptyTrash removes what was moved away. Nobody needs it, and everybody may
// be at it at once. It is our own files: nothing is ever mounted there.
func (s *Store) emptyTrash(ctx context.Context) error {
	entries, err := os.ReadDir(s.path(trashDir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			return fmt.Errorf("empty the trash: %w", context.Cause(ctx))
		}
		path := s.path(trashDir, e.Name())
		errs = append(errs, s.step("gc.unlink", func() error { return ignoreMissing(os.RemoveAll(path)) }))
	}
	return errors.Join(errs...)
}
