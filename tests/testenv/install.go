package testenv

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	// Installed is where the drop-ins of packaging/ look for the runtime.
	Installed = "/usr/local/bin/vc-runtime"
	// InstalledConfig is what the runtime reads without --config.
	InstalledConfig = "/etc/vc-runtime/config.toml"
)

// Install puts the runtime under test and the suite's settings of it where a
// machine has them, Installed and InstalledConfig, and files of engines into /etc: path below /etc to content. So engines can be given the
// drop-ins as they are. All is on overlays in the suite's mount namespace, which
// the machine itself does not see, nor what engines write into /etc.
//
// It gives how that is taken away.
func (s *Suite) Install(etc map[string][]byte) (undo func() error, err error) {
	var mounted []string
	undo = func() error {
		var errs []error
		for _, dir := range mounted {
			if err := unix.Unmount(dir, 0); err != nil {
				errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
			}
		}
		return errors.Join(errs...)
	}
	for _, dir := range []string{"/etc", filepath.Dir(Installed)} {
		if err := s.overlay(dir); err != nil {
			return nil, errors.Join(err, undo())
		}
		mounted = append(mounted, dir)
	}
	files := map[string][]byte{InstalledConfig: []byte(s.Settings().TOML())}
	for name, content := range etc {
		files[filepath.Join("/etc", name)] = content
	}
	for path, content := range files {
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, content, 0o644)
		}
		if err != nil {
			return nil, errors.Join(err, undo())
		}
	}
	if err := os.Remove(Installed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(err, undo())
	}
	if err := os.Symlink(s.Runtime, Installed); err != nil {
		return nil, errors.Join(err, undo())
	}
	return undo, nil
}

// overlay mounts an empty upper layer over a folder.
func (s *Suite) overlay(dir string) error {
	layers, err := os.MkdirTemp(s.Dir, "over-")
	if err != nil {
		return err
	}
	upper, work := filepath.Join(layers, "upper"), filepath.Join(layers, "work")
	for _, d := range []string{upper, work} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, upper, work)
	if err := unix.Mount("overlay", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay on %s: %w", dir, err)
	}
	return nil
}

// DropIn reads a file of packaging/.
func DropIn(name string) ([]byte, error) {
	root, err := ModuleRoot()
	if err != nil {
		return nil, err
	}
	return os.ReadFile(filepath.Join(root, "packaging", name))
}
