package build

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
)

// cache is the folder of what is kept between builds. Each folder in it
// appears at once, when it is complete:
//
//	fetched/NAME   what came from Debian, one version of it
//	made/NAME-KEY  what was made of that; KEY stands for the recipe
//	apt            package lists, see apt
type cache struct {
	dir     string
	refresh bool // fetch again
	log     logrus.FieldLogger

	archive *apt // opened by the first fetch
}

// fetched gives the one file of a pattern in what fetch has put into its
// folder, at this build or at an earlier one.
func (c *cache) fetched(ctx context.Context, name, pattern string, fetch func(a *apt, dir string) error) (string, error) {
	folder := filepath.Join(c.dir, "fetched", name)
	if !c.refresh {
		if path, err := only(folder, pattern); err == nil {
			return filepath.Abs(path)
		}
	}
	if c.archive == nil {
		c.log.Info("fetching Debian's package lists")
		a, err := openApt(ctx, filepath.Join(c.dir, "apt"))
		if err != nil {
			return "", err
		}
		c.archive = a
	}
	c.log.Infof("fetching the %s package", name)
	err := replaceDir(folder, func(tmp string) error { return fetch(c.archive, tmp) })
	if err != nil {
		return "", err
	}
	path, err := only(folder, pattern)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// made gives the folder that fill has filled, at this build or at an earlier
// one with the same key. Those with other keys are removed.
func (c *cache) made(name, key string, fill func(tmp string) error) (string, error) {
	parent := filepath.Join(c.dir, "made")
	folder := filepath.Join(parent, name+"-"+key)
	if _, err := os.Stat(folder); !errors.Is(err, fs.ErrNotExist) {
		return folder, err
	}
	c.log.Infof("making %s", filepath.Base(folder))
	if err := replaceDir(folder, fill); err != nil {
		return "", err
	}
	old, err := filepath.Glob(filepath.Join(parent, name+"-*"))
	if err != nil {
		return "", err
	}
	for _, o := range old {
		if o != folder {
			err = errors.Join(err, os.RemoveAll(o))
		}
	}
	return folder, err
}

// replaceDir makes folder of what fill puts into a temporary one beside it.
func replaceDir(folder string, fill func(tmp string) error) (err error) {
	parent := filepath.Dir(folder)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if tmp, err = filepath.Abs(tmp); err != nil {
		return err
	}
	if err := fill(tmp); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	return os.Rename(tmp, folder)
}

// replaceFile writes a file aside and renames it into place.
func replaceFile(path string, data []byte, perm os.FileMode) error {
	tmp := fmt.Sprintf("%s.new-%d", path, os.Getpid())
	err := os.WriteFile(tmp, data, perm)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(tmp))
	}
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
