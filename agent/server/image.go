package server

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/user" // what docker, containerd and runc read passwd and group with
	"golang.org/x/sys/unix"
)

// maxUserFile bounds /etc/passwd and /etc/group of a container, in bytes.
const maxUserFile = 1 << 20

// etcFiles are the files that a host may give a container as texts.
var etcFiles = map[string]bool{"hostname": true, "hosts": true, "resolv.conf": true}

func checkFiles(files map[string][]byte) error {
	for name := range files {
		if !etcFiles[name] {
			return fmt.Errorf("file %.100q: %w", name, errSpec)
		}
	}
	return nil
}

// files is where the texts are that lie over files of the container's /etc.
func (c *container) files() string { return filepath.Join(c.dir, "files") }

func (c *container) writeFiles(files map[string][]byte) error {
	if len(files) == 0 {
		return nil
	}
	if err := os.Mkdir(c.files(), 0o711); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(c.files(), name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (c *container) removeFiles() error {
	for name := range etcFiles {
		if err := os.Remove(filepath.Join(c.files(), name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(c.files()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// addFiles adds the mounts of the texts to a spec.
func addFiles(spec object, dir string, files map[string][]byte) error {
	if len(files) == 0 {
		return nil
	}
	var mounts []object
	if err := spec.get("mounts", &mounts); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mounts = append(mounts, object{
			"destination": "/etc/" + name, "type": "bind", "source": filepath.Join(dir, name),
			"options": []string{"bind", "nosuid", "nodev"},
		})
	}
	spec["mounts"] = mounts
	return nil
}

// setUser makes who the process is of a name or number as images have it.
func setUser(process object, rootfs, who string) error {
	if who == "" {
		return nil
	}
	passwd, err := openInRoot(rootfs, "etc/passwd")
	if err != nil {
		return err
	}
	defer passwd.Close()
	group, err := openInRoot(rootfs, "etc/group")
	if err != nil {
		return err
	}
	defer group.Close()
	found, err := user.GetExecUser(who, nil, io.LimitReader(passwd, maxUserFile), io.LimitReader(group, maxUserFile))
	if err != nil {
		return fmt.Errorf("user %.300q: %w (%w)", who, errSpec, err)
	}
	var u object
	if err := process.get("user", &u); err != nil {
		return err
	}
	if u == nil {
		u = object{}
		process["user"] = u
	}
	u["uid"], u["gid"], u["additionalGids"] = found.Uid, found.Gid, append([]int{}, found.Sgids...)
	return nil
}

// openInRoot opens a file of a container's rootfs for reading: symlinks lead
// nowhere but into the rootfs. One that is not there, or no regular file, is
// empty.
func openInRoot(rootfs, name string) (io.ReadCloser, error) {
	none := io.NopCloser(strings.NewReader(""))
	dir, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: rootfs, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
			return none, nil
		}
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if !info.Mode().IsRegular() {
		f.Close()
		return none, nil
	}
	return f, nil
}
