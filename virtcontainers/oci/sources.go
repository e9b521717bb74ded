package oci

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// hostFiles answers what there is on the host.
type hostFiles interface {
	// inspect follows symlinks.
	inspect(path string) (source, error)
}

// source is a file of the host that a container wants to see.
type source struct {
	path         string // absolute, without symlinks
	mode         fs.FileMode
	major, minor uint32 // of a device
	tmpfs        bool   // is a folder on a tmpfs
	size         int64  // of that tmpfs, in bytes
}

// realFiles is the host.
type realFiles struct{}

func (realFiles) inspect(path string) (source, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return source{}, renameOp(err, "stat")
	}
	info, err := os.Stat(real)
	if err != nil {
		return source{}, err
	}
	s := source{path: real, mode: info.Mode()}
	switch {
	case s.isDevice():
		var st unix.Stat_t
		if err := unix.Stat(real, &st); err != nil {
			return source{}, &fs.PathError{Op: "stat", Path: real, Err: err}
		}
		s.major, s.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case s.mode.IsDir():
		var st unix.Statfs_t
		if err := unix.Statfs(real, &st); err != nil {
			return source{}, &fs.PathError{Op: "statfs", Path: real, Err: err}
		}
		s.tmpfs = st.Type == unix.TMPFS_MAGIC
		s.size = int64(st.Blocks) * st.Bsize
	}
	return s, nil
}

func (s source) isDevice() bool { return s.mode&fs.ModeDevice != 0 }

// device is the device under another path.
func (s source) device(path string) specs.LinuxDevice {
	kind := "b"
	if s.mode&fs.ModeCharDevice != 0 {
		kind = "c"
	}
	perm := s.mode.Perm()
	return specs.LinuxDevice{Path: path, Type: kind, Major: int64(s.major), Minor: int64(s.minor), FileMode: &perm}
}

// bindKind is what becomes of a bind mount; the zero value is a plain one.
type bindKind struct {
	guest   string // a file system that the guest mounts instead
	device  bool   // a device that the guest makes itself
	dropped string // why it is left out
}

// kernelMounts are the sources that are the host's kernel talking: the guest
// has its own.
var kernelMounts = map[string]string{
	"/proc": "proc", "/sys": "sysfs", "/sys/fs/cgroup": "cgroup", "/dev/mqueue": "mqueue",
}

var (
	errKernelFiles = errors.New("the host's /proc and /sys cannot be shared with a virtual machine")
	errDevFolder   = errors.New("the host's devices cannot be shared with a virtual machine")
	errDevicePlace = errors.New("a device can be only below /dev in the container")
)

// classify decides by where the source really is. Of the host's /dev only
// /dev/shm, plain files and sockets are shared.
func classify(s source, dest string) (bindKind, error) {
	below := func(dir string) bool { return strings.HasPrefix(s.path, dir+"/") }
	switch {
	case s.isDevice():
		if !strings.HasPrefix(dest, "/dev/") {
			return bindKind{}, errDevicePlace
		}
		return bindKind{device: true}, nil
	case kernelMounts[s.path] != "":
		return bindKind{guest: kernelMounts[s.path]}, nil
	case below("/sys/fs/cgroup") && strings.HasPrefix(dest, "/sys/fs/cgroup/"):
		return bindKind{dropped: "a cgroup v1 hierarchy of the host; the guest has cgroup v2"}, nil
	case below("/proc"), below("/sys"):
		return bindKind{}, errKernelFiles
	case s.path == "/dev/shm", below("/dev/shm"):
		return bindKind{}, nil
	case s.path == "/dev", below("/dev") && s.mode.IsDir():
		return bindKind{}, errDevFolder
	case dest == "/dev/shm" && s.tmpfs && filepath.Base(s.path) == "shm":
		// The folder that podman, docker, containerd and CRI-O make for a
		// container or pod. Shared memory needs the guest's own page cache.
		return bindKind{guest: "tmpfs"}, nil
	}
	return bindKind{}, nil
}
