// Package template keeps booted machines on disk, for new ones to begin as
// their clones: a folder for each kind of machine, with the guest's memory,
// the state of its devices and what belongs to both (meta.json).
//
// It is a cache. A template is valid until the host's next boot, so nothing in
// here waits for the disk; whatever is missing, of another version or damaged
// is made again.
package template

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state/filelock"
)

// version is that of the files' format, and of everything in template and
// clone that is not in the Key.
const version = 6

// Names in a template's folder.
const (
	memoryName = "memory"
	stateName  = "state"
	metaName   = "meta.json"
)

// bootIDFile changes with each boot of the host (random(4)).
const bootIDFile = "/proc/sys/kernel/random/boot_id"

// Key is everything that a template depends on: clones are exactly alike.
type Key struct {
	Version int    `json:"version"`
	ImageID string `json:"imageId"`
	BootID  string `json:"bootId"` // of the host
	// Machine is without a name and without paths of templates.
	Machine hypervisor.Config `json:"machine"`
	Files   []fileKey         `json:"files"` // of the machine's programs and images
}

// fileKey is a file as it was: a new version is a new file.
type fileKey struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"` // ns since the epoch
}

// NewKey describes a machine that boots the guest image with the given id.
func NewKey(cfg hypervisor.Config, imageID string) (Key, error) {
	cfg.Name, cfg.MemoryFile, cfg.Template = "", "", nil
	boot, err := bootID()
	if err != nil {
		return Key{}, fmt.Errorf("template: %w", err)
	}
	k := Key{Version: version, ImageID: imageID, BootID: boot, Machine: cfg}
	for _, path := range []string{cfg.Binary, cfg.Kernel, cfg.Initrd} {
		file, err := describe(path)
		if err != nil {
			return Key{}, fmt.Errorf("template: %w", err)
		}
		k.Files = append(k.Files, file)
	}
	return k, nil
}

func bootID() (string, error) {
	b, err := os.ReadFile(bootIDFile)
	return strings.TrimSpace(string(b)), err
}

// name is that of the template's folder.
func (k Key) name() (string, error) {
	b, err := json.Marshal(k)
	if err != nil {
		return "", fmt.Errorf("template: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16]), nil
}

// Entry is a template that can be cloned.
type Entry struct {
	hypervisor.Template
	// Greeting is what the guest had said when it was saved.
	Greeting json.RawMessage

	dir string
}

// meta is the file that makes a folder a template.
type meta struct {
	Key         Key             `json:"key"`
	Greeting    json.RawMessage `json:"greeting"`
	Memory      fileKey         `json:"memory"`      // it would take too long to read it
	StateDigest string          `json:"stateDigest"` // SHA-256
}

// Store is a folder of templates.
type Store struct {
	dir string
}

// Open opens a store, and makes its folder.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("templates: %w", err)
	}
	return &Store{dir: dir}, nil
}

// ErrNone is that there is no template, and none was to be made.
var ErrNone = errors.New("there is no template")

// ErrFailedBefore is that a template could not be made a short time ago.
var ErrFailedBefore = errors.New("the template could not be made before")

// retryAfter is when it is tried again after it could not be made.
const retryAfter = 10 * time.Minute

// failedSuffix ends the name of the file that says when that was.
const failedSuffix = ".failed"

func markFailed(dir string) error { return os.WriteFile(dir+failedSuffix, nil, 0o600) }

// Forgive lets a template be made at once that could not be made before.
func (s *Store) Forgive(key Key) error {
	name, err := key.name()
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, name+failedSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("templates: %w", err)
	}
	return nil
}

// Maker saves a booted machine to the paths, where nothing is yet, and gives
// the guest's greeting.
type Maker func(ctx context.Context, t hypervisor.Template) (greeting json.RawMessage, err error)

// Get gives the template for a key. Where there is none it calls make: when
// many ask at once, one makes it and the others wait. made reports whether
// this call did. Without make it waits for nobody, and gives ErrNone.
func (s *Store) Get(ctx context.Context, key Key, make Maker) (e *Entry, made bool, err error) {
	name, err := key.name()
	if err != nil {
		return nil, false, err
	}
	dir := filepath.Join(s.dir, name)
	if e, err := read(dir, key); err == nil {
		return e, false, nil
	}
	if make == nil {
		return nil, false, ErrNone
	}
	making, err := s.hold(ctx, makingName)
	if err != nil {
		return nil, false, err
	}
	defer making.Close()
	e, err = read(dir, key)
	if err == nil { // made while we waited
		return e, false, nil
	}
	if !errors.Is(err, fs.ErrNotExist) { // damaged
		if err := s.Remove(ctx, &Entry{dir: dir}); err != nil {
			return nil, false, fmt.Errorf("templates: %w", err)
		}
	}
	if info, err := os.Stat(dir + failedSuffix); err == nil && time.Since(info.ModTime()) < retryAfter {
		return nil, false, fmt.Errorf("%w, at %s", ErrFailedBefore, info.ModTime().Format(time.TimeOnly))
	}
	if err := s.makeRoom(ctx); err != nil {
		return nil, false, err
	}
	if err := s.make(ctx, dir, key, make); err != nil {
		if ctx.Err() == nil {
			err = errors.Join(err, markFailed(dir))
		}
		return nil, false, fmt.Errorf("make the template: %w", err)
	}
	e, err = read(dir, key)
	return e, err == nil, err
}

// Two files say what goes on. Who makes a template, which takes as long as its
// guest, has making: one does at a time, on the whole host, and the others want the
// result. Who puts one in place, or removes some, has lock, for moments. One that
// uses a template needs neither: the folder appears and goes whole.
const (
	makingName = "making"
	lockName   = "lock"
)

// lock waits for the lock, which nobody has while he waits for a guest.
func (s *Store) lock(ctx context.Context) (*flock.Flock, error) { return s.hold(ctx, lockName) }

func (s *Store) hold(ctx context.Context, name string) (*flock.Flock, error) {
	f := flock.New(filepath.Join(s.dir, name))
	if err := filelock.Wait(ctx, f.Lock, func() { f.Close() }); err != nil {
		return nil, fmt.Errorf("lock %s: %w", f.Path(), err)
	}
	return f, nil
}

// makeRoom removes what is of no use any more. Whoever calls it makes a template.
func (s *Store) makeRoom(ctx context.Context) error {
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	s.collect() // what could not be removed only takes room
	s.sweep()
	return nil
}

// make makes the template aside and renames it into place.
func (s *Store) make(ctx context.Context, dir string, key Key, make Maker) (err error) {
	aside, err := os.MkdirTemp(s.dir, asidePrefix)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(aside))
		}
	}()
	t := paths(aside)
	greeting, err := make(ctx, t)
	if err != nil {
		return err
	}
	m := meta{Key: key, Greeting: greeting}
	if m.Memory, err = describe(t.Memory); err != nil {
		return err
	}
	m.Memory.Path = memoryName
	if m.StateDigest, err = digest(t.State); err != nil {
		return err
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(aside, metaName), append(b, '\n'), 0o400); err != nil {
		return err
	}
	for _, path := range []string{t.Memory, t.State} {
		if err := os.Chmod(path, 0o400); err != nil {
			return err
		}
	}
	lock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.Rename(aside, dir)
}

func paths(dir string) hypervisor.Template {
	return hypervisor.Template{Memory: filepath.Join(dir, memoryName), State: filepath.Join(dir, stateName)}
}

// read reads and checks a template. fs.ErrNotExist is that there is none.
func read(dir string, key Key) (*Entry, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	m, err := readMeta(dir)
	if err != nil {
		return nil, damaged(dir, err)
	}
	t := paths(dir)
	memory, err := describe(t.Memory)
	if err != nil {
		return nil, damaged(dir, err)
	}
	sum, err := digest(t.State)
	if err != nil {
		return nil, damaged(dir, err)
	}
	want, _ := key.name()
	if got, err := m.Key.name(); err != nil || got != want || memory.Size != m.Memory.Size || memory.Mtime != m.Memory.Mtime || sum != m.StateDigest {
		return nil, damaged(dir, errors.New("its files do not fit"))
	}
	now := time.Now()
	os.Chtimes(dir, now, now) // when it was used; collect forgives what fails
	return &Entry{Template: t, Greeting: m.Greeting, dir: dir}, nil
}

// damaged is never fs.ErrNotExist.
func damaged(dir string, err error) error {
	return fmt.Errorf("template %s is damaged: %v", dir, err)
}

func readMeta(dir string) (*meta, error) {
	b, err := os.ReadFile(filepath.Join(dir, metaName))
	if err != nil {
		return nil, err
	}
	var m meta
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, err
	}
	return &m, nil
}

func describe(path string) (fileKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return fileKey{}, err
	}
	return fileKey{path, info.Size(), info.ModTime().UnixNano()}, nil
}

func digest(path string) (string, error) {
	b, err := os.ReadFile(path) // under 1 MiB
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}
