package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// resource is something that the collector keeps or takes away: a blob by its
// digest, or a layer by its chain id.
type resource struct {
	kind string // blobKind, layerKind
	id   digest.Digest
}

const (
	blobKind  = "blob"
	layerKind = "layer"
)

func blobOf(d digest.Digest) resource      { return resource{blobKind, d} }
func layerOf(chain digest.Digest) resource { return resource{layerKind, chain} }

// String is its form in the file of a lease.
func (r resource) String() string { return r.kind + " " + r.id.String() }

// key names the lock of the work on it.
func (r resource) key() string { return r.kind + "-" + r.id.Encoded() }

func parseResource(line string) (resource, error) {
	kind, id, _ := strings.Cut(line, " ")
	if kind != blobKind && kind != layerKind {
		return resource{}, fmt.Errorf("%q: expected %q or %q, and a digest", line, blobKind, layerKind)
	}
	return resource{kind, digest.Digest(id)}, validDigest(digest.Digest(id))
}

// path is the place of a resource.
func (s *Store) place(r resource) string {
	if r.kind == layerKind {
		return s.path(layersDir, r.id.Encoded())
	}
	return s.path(blobsDir, r.id.Algorithm().String(), r.id.Encoded())
}

// has reports whether a resource is there. What is at its place is complete.
func (s *Store) has(r resource) (bool, error) {
	info, err := os.Lstat(s.place(r))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if r.kind == layerKind != info.IsDir() {
		return false, fmt.Errorf("%w: %s: neither a blob nor a layer", ErrCorrupt, s.place(r))
	}
	return true, nil
}

// Lease keeps what it names from the collector for as long as the process
// lives, or until it is closed. Any number of goroutines may use it.
type Lease struct {
	s  *Store
	id string

	mu    sync.Mutex // guards what follows, and the writes to the file
	file  *os.File   // with the lock; nil after Close
	size  int64
	named map[resource]bool
}

// NewLease begins a lease. It also sweeps up what dead processes have left.
func (s *Store) NewLease(ctx context.Context) (*Lease, error) {
	if err := s.sweep(ctx); err != nil {
		return nil, fmt.Errorf("sweep the image store: %w", err)
	}
	l := &Lease{s: s, id: newID(), named: map[resource]bool{}}
	if err := l.begin(ctx); err != nil {
		return nil, fmt.Errorf("begin a lease: %w", errors.Join(err, l.Close()))
	}
	return l, nil
}

// begin makes the lease's file, locked from before it has its name, and its
// folder. All of it is done under the store's lock, so that the collector sees
// neither a lease without its lock nor a folder without its lease.
func (l *Lease) begin(ctx context.Context) error {
	meta, err := l.s.shared(ctx)
	if err != nil {
		return err
	}
	defer meta.release()
	newborn := l.s.path(tmpDir, l.id+".lease")
	err = l.s.step("lease.create", func() error {
		f, err := os.OpenFile(newborn, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			return err
		}
		l.file = f
		return nil
	})
	if err != nil {
		return err
	}
	if err := l.s.step("lease.lock", func() error { return tryFlock(l.file, unix.LOCK_EX) }); err != nil {
		return err
	}
	// Nothing of a lease has to outlast a loss of power.
	if err := l.s.step("lease.rename", func() error { return os.Rename(newborn, l.path()) }); err != nil {
		return err
	}
	return l.s.step("lease.mkdir", func() error { return os.Mkdir(l.TempDir(), 0o700) })
}

func (l *Lease) path() string { return l.s.path(leasesDir, l.id) }

// Store is the store that the lease is of.
func (l *Lease) Store() *Store { return l.s }

// TempDir is a folder on the store's file system that lives as long as the
// lease.
func (l *Lease) TempDir() string { return l.s.path(tmpDir, l.id) }

// Close ends the lease. What a record or a pin does not name by now is
// garbage. Only the first call does something.
func (l *Lease) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	// No lock: records and pins were written under it before, so that the
	// collector sees them if it does not see the lease.
	err := errors.Join(
		os.RemoveAll(l.TempDir()), // our own files; nothing is ever mounted there
		os.RemoveAll(l.s.path(tmpDir, l.id+".lease")),
		os.RemoveAll(l.path()),
		l.file.Close(),
	)
	l.file = nil
	return wrapf("end a lease", err)
}

// need names resources, and then says which of them are there. Those stay for
// as long as the lease does; for the others it may add them.
func (l *Lease) need(ctx context.Context, rs ...resource) ([]bool, error) {
	for _, r := range rs {
		if err := validDigest(r.id); err != nil {
			return nil, err
		}
	}
	meta, err := l.s.shared(ctx)
	if err != nil {
		return nil, err
	}
	defer meta.release()
	if err := l.name(rs); err != nil {
		return nil, err
	}
	return l.s.look(rs)
}

// name writes resources into the lease. The caller has the store's lock.
func (l *Lease) name(rs []resource) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return errors.New("the lease has ended")
	}
	var text strings.Builder
	for _, r := range rs {
		if !l.named[r] {
			text.WriteString(r.String() + "\n")
		}
	}
	if text.Len() == 0 {
		return nil
	}
	err := l.s.step("lease.pin", func() error {
		_, err := l.file.WriteAt([]byte(text.String()), l.size)
		return err
	})
	if err != nil {
		return errors.Join(err, l.file.Truncate(l.size)) // no half line
	}
	l.size += int64(text.Len())
	for _, r := range rs {
		l.named[r] = true
	}
	return nil
}

// look says which resources are there.
func (s *Store) look(rs []resource) ([]bool, error) {
	there := make([]bool, len(rs))
	err := s.step("lease.check", func() (err error) {
		for i, r := range rs {
			if there[i], err = s.has(r); err != nil {
				return err
			}
		}
		return nil
	})
	return there, err
}

// holds gives ErrNotPinned for a resource that the lease does not name.
func (l *Lease) holds(r resource) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || !l.named[r] {
		return fmt.Errorf("%s: %w", r, ErrNotPinned)
	}
	return nil
}

// readLease gives what the lease at path names. It is dead where its lock can
// be taken. The caller has the store's lock, exclusively.
func readLease(path string) (named []resource, dead bool, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil // closed just now
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	switch err := tryFlock(f, unix.LOCK_SH); {
	case err == nil:
		return nil, true, nil
	case !errors.Is(err, errBusy):
		return nil, false, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	for line := range strings.Lines(string(text)) {
		r, err := parseResource(strings.TrimSuffix(line, "\n"))
		if err != nil {
			return nil, false, fmt.Errorf("%w: lease %s: %w", ErrCorrupt, filepath.Base(path), err)
		}
		named = append(named, r)
	}
	return named, false, nil
}

// wrapf puts text before an error; nil stays nil.
func wrapf(text string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", text, err)
}
