package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/reaper"
)

// The module groups of disks and of what is on them.
const (
	blockModules   = "block"
	erofsModules   = "erofs"
	ext4Modules    = "ext4"
	overlayModules = "overlay"
)

// Disks finds the block devices that the host plugs, by their serial numbers,
// and mounts what is on them.
type Disks struct {
	Modules *Modules
	Reaper  *reaper.Reaper
}

// Number gives the number of the disk with the given serial number, waiting
// until the kernel has found it.
func (d *Disks) Number(ctx context.Context, serial string) (major, minor uint32, err error) {
	name, err := d.find(ctx, serial)
	if err != nil {
		return 0, 0, err
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join("/dev", name), &st); err != nil {
		return 0, 0, fmt.Errorf("disk %s: stat /dev/%s: %w", serial, name, err)
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}

// find gives a disk's name in /dev.
func (d *Disks) find(ctx context.Context, serial string) (string, error) {
	ev, err := listenUevents()
	if err != nil {
		return "", err
	}
	defer ev.close()
	if err := d.Modules.Load(blockModules); err != nil {
		return "", err
	}
	for {
		name, err := diskWith(serial)
		if name != "" || err != nil {
			return name, err
		}
		if err := ev.wait(ctx); err != nil {
			return "", fmt.Errorf("wait for disk %s: %w", serial, err)
		}
	}
}

// diskWith gives the name of the disk that has the serial number, "" for none.
func diskWith(serial string) (string, error) {
	files, err := filepath.Glob("/sys/block/vd*/serial")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err == nil && strings.TrimRight(string(b), "\n") == serial {
			return filepath.Base(filepath.Dir(file)), nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) { // it is going
			return "", fmt.Errorf("serial number of a disk: %w", err)
		}
	}
	return "", nil
}

// What MountLayers makes below its folder: the overlay, the disk with its upper
// folders, and a folder for each layer.
const (
	layersRoot  = "rootfs"
	layersUpper = "upper"
	layersLower = "l"
)

// MountLayers mounts an overlay on dir/rootfs: layers are disks with an erofs,
// the lowest first, upper is one with an ext4. It is for one container: the
// guest is as hostile as the images are, and these are only read by its kernel.
func (d *Disks) MountLayers(ctx context.Context, layers []string, upper, dir string) error {
	for _, group := range []string{erofsModules, ext4Modules, overlayModules} {
		if err := d.Modules.Load(group); err != nil {
			return err
		}
	}
	var lower []string
	for i, serial := range layers {
		name := layersLower + strconv.Itoa(i)
		if err := d.mount(ctx, serial, filepath.Join(dir, name), "erofs", unix.MS_RDONLY, ""); err != nil {
			return err
		}
		lower = append([]string{name}, lower...) // overlay has the uppermost first
	}
	if err := d.mount(ctx, upper, filepath.Join(dir, layersUpper), "ext4", unix.MS_NOATIME, "noinit_itable"); err != nil {
		return err
	}
	for _, name := range []string{layersUpper + "/data", layersUpper + "/work", layersRoot} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + layersUpper + "/data,workdir=" + layersUpper + "/work"
	if err := mountIn(dir, "overlay", layersRoot, "overlay", options); err != nil {
		return fmt.Errorf("mount the overlay of %d layers: %w", len(layers), err)
	}
	return nil
}

// mount mounts the disk with the serial number on a new folder.
func (d *Disks) mount(ctx context.Context, serial, dir, fstype string, flags uintptr, data string) error {
	name, err := d.find(ctx, serial)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	if err := unix.Mount(filepath.Join("/dev", name), dir, fstype, flags, data); err != nil {
		return fmt.Errorf("mount disk %s as %s: %w", serial, fstype, err)
	}
	return nil
}

// mountIn mounts with options whose paths are relative to dir: those of an
// overlay have to fit in a page, with their folder in front of each they would
// not. The thread that has changed its folder ends with its goroutine.
func mountIn(dir, source, target, fstype, options string) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			done <- fmt.Errorf("a working folder of its own: %w", err)
			return
		}
		if err := unix.Chdir(dir); err != nil {
			done <- &os.PathError{Op: "chdir", Path: dir, Err: err}
			return
		}
		done <- unix.Mount(source, target, fstype, 0, options)
	}()
	return <-done
}

// UnmountLayers takes away what MountLayers has made in dir, plainly: when it
// returns without an error the disks can be unplugged. What is not there is
// fine.
func (d *Disks) UnmountLayers(ctx context.Context, dir string) error {
	names, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// The overlay holds the others: it goes first.
	order := []string{layersRoot, layersUpper}
	for _, entry := range names {
		if entry.Name() != layersRoot && entry.Name() != layersUpper {
			order = append(order, entry.Name())
		}
	}
	for _, name := range order {
		path := filepath.Join(dir, name)
		if err := unmount(ctx, d.Reaper, path); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.Remove(dir)
}
