package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/virtcontainers/cni"
)

// Owner is the file in a bundle's folder that says whose it is: of a container
// that is being made, or that the state store knows, or else of nobody.
type Owner struct {
	Root      string        `json:"root"` // of the state store
	Container string        `json:"container"`
	Maker     state.Process `json:"maker"`
	Boot      string        `json:"boot"`
	// Network is what the container joins, nil for none.
	Network *cni.Network `json:"network,omitempty"`
}

const ownerName = "owner.json"

// networkCache is the folder in a bundle for what the CNI library remembers.
const networkCache = "network"

// making is how the name of a folder begins that is being made, and has its
// maker's pid and start time after it.
const making = ".new-"

// Claim makes a folder for the bundle of a container below home, by name, with
// whose it is in it: nobody sees it without. Errors: state.ErrExist.
func Claim(home, name string, o Owner) (dir string, err error) {
	if o.Maker, err = state.Self(); err != nil {
		return "", err
	}
	if o.Boot, err = state.BootID(); err != nil {
		return "", err
	}
	dir = filepath.Join(home, name)
	if o.Network != nil {
		network := *o.Network
		network.Cache = filepath.Join(dir, networkCache)
		o.Network = &network
	}
	text, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", ownerName, err)
	}
	if err := os.MkdirAll(home, 0o700); err != nil {
		return "", err
	}
	aside := filepath.Join(home, fmt.Sprintf("%s%d-%d", making, o.Maker.Pid, o.Maker.StartTime))
	if err := os.Mkdir(aside, 0o700); err != nil {
		return "", err
	}
	err = os.WriteFile(filepath.Join(aside, ownerName), text, filePerm)
	if err == nil {
		err = unix.Renameat2(unix.AT_FDCWD, aside, unix.AT_FDCWD, dir, unix.RENAME_NOREPLACE)
	}
	if errors.Is(err, unix.EEXIST) {
		err = state.ErrExist
	}
	if err != nil {
		return "", errors.Join(err, Remove(aside))
	}
	return dir, nil
}

// OwnerOf reads whose a bundle is.
func OwnerOf(dir string) (*Owner, error) {
	text, err := os.ReadFile(filepath.Join(dir, ownerName))
	if err != nil {
		return nil, err
	}
	o := new(Owner)
	if err := json.Unmarshal(text, o); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, ownerName), err)
	}
	return o, nil
}

// Release leaves the network and removes the bundle. What is not there is fine.
func Release(ctx context.Context, dir string) error {
	o, err := OwnerOf(dir)
	if err == nil && o.Network != nil {
		if err := o.Network.Leave(ctx); err != nil {
			return err
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, networkCache)); err != nil {
		return err
	}
	return Remove(dir)
}

// Sweep releases the bundles that are nobody's: their maker was killed, their
// container has gone without them, or the machine has booted since. known says
// whether a state store has a container. released is called with the name of
// each. It goes on past failures.
func Sweep(ctx context.Context, home string, known func(root, id string) (bool, error), released func(name string) error) error {
	entries, err := os.ReadDir(home)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	boot, err := state.BootID()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		dir := filepath.Join(home, e.Name())
		gone, err := abandoned(dir, boot, known)
		if err == nil && gone {
			if err = Release(ctx, dir); err == nil {
				err = released(e.Name())
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("bundle %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}

// abandoned reports whether a bundle is nobody's.
func abandoned(dir, boot string, known func(root, id string) (bool, error)) (bool, error) {
	if rest, ok := strings.CutPrefix(filepath.Base(dir), making); ok {
		var maker state.Process
		if _, err := fmt.Sscanf(rest, "%d-%d", &maker.Pid, &maker.StartTime); err != nil {
			return false, fmt.Errorf("unknown name: %w", err)
		}
		return !maker.Alive(), nil
	}
	o, err := OwnerOf(dir)
	switch {
	case errors.Is(err, os.ErrNotExist): // whoever was releasing it was killed
		return true, nil
	case err != nil:
		return false, err
	case o.Boot != boot:
		return true, nil
	case o.Maker.Alive():
		return false, nil
	}
	there, err := known(o.Root, o.Container)
	return !there, err
}
