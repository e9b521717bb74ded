package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/image"
	"github.com/vc-runtime/vc-runtime/image/pull"
	"github.com/vc-runtime/vc-runtime/image/store"
	"github.com/vc-runtime/vc-runtime/virtcontainers/bundle"
)

func (p *program) imageUnpackCommand() *cli.Command {
	return &cli.Command{
		Name:      "unpack",
		Usage:     "make a bundle of an image, for any runtime: a folder with rootfs and config.json",
		ArgsUsage: "<image> <dir>",
		Before:    arguments(2, 2),
		Action:    p.withImages(unpackImage),
	}
}

// plainVersion is the version of the runtime specification that bundles for others
// have: crun knew no later one until 1.9, and nothing later is used.
const plainVersion = "1.0.2"

// unpackImage makes a bundle. A folder that it has begun, and not completed,
// has no config.json, also after a loss of power.
func unpackImage(c *cli.Context, s *image.Service) error {
	img, lease, err := s.Get(c.Context, c.Args().Get(0), image.Never, image.PullOptions{})
	if err != nil {
		return err
	}
	defer lease.Close()
	config, err := s.ImageConfig(img)
	if err != nil {
		return err
	}
	if len(config.Config.Entrypoint)+len(config.Config.Cmd) == 0 {
		config.Config.Cmd = []string{"sh"} // as the spec command has it
	}
	spec, err := bundle.Spec(config, bundle.Options{})
	if err != nil {
		return err
	}
	spec.Version = plainVersion
	dir := c.Args().Get(1)
	rootfs := filepath.Join(dir, "rootfs")
	if _, err := os.Lstat(filepath.Join(dir, specConfig)); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s: there is a %s already", dir, specConfig))
	}
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	root, err := os.Open(rootfs)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := pull.Folder(c.Context, s.Store, img, root); err != nil {
		return fmt.Errorf("unpack %s: %w", img.Name, err)
	}
	if spec.Process.User, err = userOf(rootfs, config.Config.User); err != nil {
		return err
	}
	text, err := json.MarshalIndent(spec, "", "\t")
	if err != nil {
		return err
	}
	// All of it at once, not file by file, by a descriptor that is older than the
	// first write: one that comes later is not told what went wrong before.
	if s.Config.Sync == store.SyncFull {
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			return os.NewSyscallError("syncfs", err)
		}
	}
	f, err := os.CreateTemp(dir, "."+specConfig+"-*")
	if err != nil {
		return err
	}
	if _, err := f.Write(append(text, '\n')); err != nil {
		return errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return complete(f, filepath.Join(dir, specConfig), 0o644)
}

// maxUserFile bounds passwd and group of an image, in bytes.
const maxUserFile = 1 << 20

// userOf finds an image's user in its rootfs, whose links lead nowhere out of
// it.
func userOf(rootfs, who string) (specs.User, error) {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return specs.User{}, err
	}
	defer root.Close()
	open := func(name string) (io.Reader, func() error, error) {
		f, err := root.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, func() error { return nil }, nil
		}
		if err != nil {
			return nil, nil, err
		}
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return nil, nil, errors.Join(err, f.Close(), fmt.Errorf("%s of the image is not a file", name))
		}
		return io.LimitReader(f, maxUserFile), f.Close, nil
	}
	passwd, closePasswd, err := open("etc/passwd")
	if err != nil {
		return specs.User{}, err
	}
	defer closePasswd()
	group, closeGroup, err := open("etc/group")
	if err != nil {
		return specs.User{}, err
	}
	defer closeGroup()
	found, err := user.GetExecUser(who, nil, passwd, group)
	if err != nil {
		return specs.User{}, fmt.Errorf("user %q of the image: %w", who, err)
	}
	u := specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid)}
	for _, gid := range found.Sgids {
		u.AdditionalGids = append(u.AdditionalGids, uint32(gid))
	}
	return u, nil
}
