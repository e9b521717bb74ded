package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// DefaultRoot is the folder of the store where the configuration names none.
const DefaultRoot = "/var/lib/vc-runtime/image"

// What is in a store.
const (
	formatFile    = "format"
	metaFile      = "meta.lock"
	blobsDir      = "blobs"
	layersDir     = "layers"
	imagesDir     = "images"
	containersDir = "containers"
	leasesDir     = "leases"
	tmpDir        = "tmp"
	partialDir    = "partial"
	trashDir      = "trash"
	locksDir      = "locks"
)

// formatVersion is the version of the layout and of the files in it.
const formatVersion = 1

// Sync is how much is done against a loss of power.
type Sync string

const (
	// SyncFull writes content to the disk before the name that promises it.
	SyncFull Sync = "full"
	// SyncOff leaves the order to the kernel: after a loss of power the store
	// has to be checked (fsck), or thrown away. For machines that are, too.
	SyncOff Sync = "off"
)

// Options are the settings of a store. The zero Options are the defaults.
type Options struct {
	Sync Sync // "" is SyncFull
	// Hook is called before and after each step that changes the store or
	// takes a lock: "blob.rename:before". Its error fails the step. Tests kill
	// the process in it, or cut the power.
	Hook func(step string) error
}

// Store is a folder of images. It holds nothing open, needs no closing, and
// may be used by any number of goroutines and processes.
type Store struct {
	root string
	opts Options
}

// Open gives the store at root, and makes its folders where they are missing.
func Open(root string, opts Options) (*Store, error) {
	switch opts.Sync {
	case "":
		opts.Sync = SyncFull
	case SyncFull, SyncOff:
	default:
		return nil, fmt.Errorf("open image store: sync = %q: expected %q or %q", opts.Sync, SyncFull, SyncOff)
	}
	if root == "" {
		return nil, errors.New("open image store: no root folder given")
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open image store %s: %w", root, err)
	}
	if opts.Hook == nil && failpoint.Enabled {
		opts.Hook = func(step string) error { return failpoint.Here(failpoint.Name(failpoint.ImageSteps + step)) }
	}
	s := &Store{root: abs, opts: opts}
	if err := s.prepare(); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", abs, err)
	}
	return s, nil
}

// prepare makes what every store has. A folder is synced into its parent
// before anything relies on it.
func (s *Store) prepare() error {
	if ok, err := s.checkFormat(); ok || err != nil {
		return err
	}
	if err := s.mkdirAll(s.root); err != nil {
		return err
	}
	for _, dir := range []string{
		filepath.Join(blobsDir, digest.SHA256.String()), layersDir, imagesDir, containersDir,
		leasesDir, tmpDir, partialDir, trashDir, locksDir,
	} {
		if err := s.mkdirAll(s.path(dir)); err != nil {
			return err
		}
	}
	text, err := json.Marshal(format{Version: formatVersion})
	if err != nil {
		return err
	}
	// Several processes may do this at once: they write the same.
	tmp, err := os.CreateTemp(s.root, ".format-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	if _, err := tmp.Write(text); err != nil {
		return err
	}
	if err := s.syncFile("format", tmp); err != nil {
		return err
	}
	return s.rename("format", tmp.Name(), s.path(formatFile))
}

type format struct {
	Version int `json:"version"`
}

// checkFormat reports whether the store is there and of this version.
func (s *Store) checkFormat() (bool, error) {
	text, err := os.ReadFile(s.path(formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var f format
	if err := decode(s.path(formatFile), text, &f); err != nil {
		return false, err
	}
	switch {
	case f.Version > formatVersion:
		return false, fmt.Errorf("%w: version %d, this one knows up to %d", ErrFutureFormat, f.Version, formatVersion)
	case f.Version < 1:
		return false, fmt.Errorf("%w: %s: version %d", ErrCorrupt, s.path(formatFile), f.Version)
	}
	return true, nil
}

// Root is the absolute path of the store.
func (s *Store) Root() string { return s.root }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

// decode reads one JSON value of the store, strictly.
func decode(path string, text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, path, err)
	}
	if dec.More() {
		return fmt.Errorf("%w: %s: more than one value", ErrCorrupt, path)
	}
	return nil
}

// validDigest gives an error for what is not a sha256 digest. A valid one is
// safe as a file name.
func validDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", d, err)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("digest %q: expected one of %s", d, digest.SHA256)
	}
	return nil
}
