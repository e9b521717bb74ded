package share

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state/failpoint"
)

// Enter moves the calling thread, for good, into a mount namespace of which it
// sees nothing but what the container does: the rootfs with the volumes in
// their places, and the processes of its own pid namespace on /proc. Where
// nothing is shared that is an empty folder. staging is an existing folder of
// the host, to attach the root to.
//
// It is for the main thread of the container's shim: engines enter the mount
// namespace of a container's pid and work on the paths of the container there
// (podman cp and podman top do). In the host's they would work on the host's
// files. Like the file server's, the namespace goes with its process, before
// its pid does.
//
// The rootfs is hostile: nothing is looked up in it but beneath it, by
// descriptor. A volume whose place is not there, since the guest has mounted
// something over it, is left out.
func Enter(cfg *Config, staging string) error {
	if err := failpoint.Here(failpoint.ShimEnter); err != nil {
		return err
	}
	root, places, err := openView(cfg)
	defer func() {
		for _, p := range places {
			unix.Close(p.tree)
		}
	}()
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mount namespace a slave: %w", err)
	}
	if err := unix.MoveMount(root, "", unix.AT_FDCWD, staging, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the container's root: %w", err)
	}
	for _, p := range places {
		if err := p.attach(root); err != nil {
			return err
		}
	}
	if err := unix.Fchdir(root); err != nil {
		return fmt.Errorf("enter the container's root: %w", err)
	}
	// The old root is put over the new one, and taken away (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change the root of the shim: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	return unix.Chdir("/")
}

// place is a detached mount and where it goes in the container.
type place struct {
	tree int
	path string
}

// openView gives detached mounts of the root and of what goes into it. The
// places that it gives with an error are to be closed too.
func openView(cfg *Config) (root int, places []place, err error) {
	if cfg == nil {
		root, err = newMount("tmpfs", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
		return root, nil, err
	}
	for _, b := range cfg.Binds {
		tree, err := openTree(b)
		if err != nil {
			return -1, places, err
		}
		places = append(places, place{tree, b.Destination})
	}
	// Of the shim's pid namespace: it shows nothing else of the host's processes.
	proc, err := newMount("proc", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return -1, places, err
	}
	places = append(places, place{proc, "/proc"})
	root, err = openTree(Bind{Source: cfg.Rootfs, Recursive: true})
	return root, places, err
}

// newMount makes a detached mount of a file system of the kernel. Its options are
// names, each with its value behind it.
func newMount(fstype string, attributes int, options ...string) (int, error) {
	fs, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", fstype, err)
	}
	defer unix.Close(fs)
	for o := range slices.Chunk(options, 2) {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return -1, fmt.Errorf("make a %s with %s=%s: %w", fstype, o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("make a %s: %w", fstype, err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return -1, fmt.Errorf("mount a %s: %w", fstype, err)
	}
	return fd, nil
}

// attach mounts p in the container's root.
func (p place) attach(root int) error {
	target, err := unix.Openat2(root, p.path, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return nil
	case err != nil:
		return &os.PathError{Op: "open the place of volume", Path: p.path, Err: err}
	}
	defer unix.Close(target)
	err = unix.MoveMount(p.tree, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	// A folder in the place of a file, or the other way round, the root itself.
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "attach volume", Path: p.path, Err: err}
	}
	return nil
}
