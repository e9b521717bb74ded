package testenv

import (
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// LoopDevice makes a loop device of 1 MiB that begins with text, on a file of that
// name in the test's folder. It gives its path. It goes when the test ends.
func (e *Env) LoopDevice(name, text string) string {
	e.Helper()
	file := e.Write(name, text)
	if err := os.Truncate(file, 1<<20); err != nil {
		e.Fatal(err)
	}
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		e.Fatal(err)
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		e.Fatal(err)
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			e.Fatalf("free loop device: %v", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		dev, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			e.Fatal(err)
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &unix.LoopConfig{Fd: uint32(backing.Fd())})
		if err == unix.EBUSY { // somebody else was quicker
			dev.Close()
			continue
		}
		if err != nil {
			e.Fatalf("%s: %v", path, err)
		}
		e.Cleanup(func() {
			defer dev.Close()
			if err := unix.IoctlSetInt(int(dev.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
				e.Errorf("detach %s: %v", path, err)
			}
		})
		return path
	}
}

// BlockDevice gives a container a block device of the host.
func (e *Env) BlockDevice(host, path, access string) Option {
	e.Helper()
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		e.Fatal(err)
	}
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: path, Type: "b", Major: major, Minor: minor})
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: access})
	}
}
