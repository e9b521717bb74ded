package integration

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// loopDevice makes a loop device of 1 MiB that begins with text.
func loopDevice(e *testenv.Env, name, text string) string {
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

// device gives a container a block device of the host.
func device(t *testing.T, host, path, access string) testenv.Option {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(host, &st); err != nil {
		t.Fatal(err)
	}
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	return func(s *specs.Spec) {
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: path, Type: "b", Major: major, Minor: minor})
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: access})
	}
}

// TestBlockDevices has a container with ten disks, more than one slot takes:
// what it writes is on the host's device when its pid is gone.
func TestBlockDevices(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	rw, ro := loopDevice(e, "rw", "from the host\n"), loopDevice(e, "ro", "read-only\n")
	options := []testenv.Option{device(t, rw, "/dev/rw", "rwm"), device(t, ro, "/dev/disk/ro", "r")}
	for _, name := range strings.Fields("2 3 4 5 6 7 8 9") {
		options = append(options, device(t, loopDevice(e, "more"+name, "disk "+name+"\n"), "/dev/more"+name, "rwm"))
	}
	options = append(options, testenv.Shell(`exec 2>&1
head -n 1 /dev/rw /dev/disk/ro /dev/more* | grep -v '^$'
echo 'from the guest' | dd of=/dev/rw conv=notrunc,fsync status=none
echo x | dd of=/dev/disk/ro conv=notrunc status=none || echo refused
stat -c %a /dev/rw`))
	c := e.Started(nil, options...)
	e.Equal("exit code", c.Wait(exitLimit), 0)
	out := c.Stdout()
	for _, want := range []string{"/dev/rw <==\nfrom the host", "/dev/disk/ro <==\nread-only", "/dev/more9 <==\ndisk 9", "refused\n666"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in the output: %s", want, out)
		}
	}
	// The pid is gone: nobody holds the device, and all is on it.
	f, err := os.OpenFile(rw, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatalf("the device is still in use: %v", err)
	}
	defer f.Close()
	b := make([]byte, 15)
	if _, err := f.ReadAt(b, 0); err != nil || !bytes.Equal(b, []byte("from the guest\n")) {
		t.Errorf("on the device: %q, %v", b, err)
	}
	c.Delete()
}

// TestBlockDeviceInUse: a file system of the host is not given away.
func TestBlockDeviceInUse(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	dev := loopDevice(e, "used", "")
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := e.Bundle(device(t, dev, "/dev/data", "rwm"))
	e.Fails(dev+" is in use on the host", "create", "--bundle", b.Dir, e.ID())
}
