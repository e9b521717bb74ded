package integration

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// TestBlockDevices has a container with ten disks, more than one slot takes:
// what it writes is on the host's device when its pid is gone.
func TestBlockDevices(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	rw, ro := e.LoopDevice("rw", "from the host\n"), e.LoopDevice("ro", "read-only\n")
	options := []testenv.Option{e.BlockDevice(rw, "/dev/rw", "rwm"), e.BlockDevice(ro, "/dev/disk/ro", "r")}
	for _, name := range strings.Fields("2 3 4 5 6 7 8 9") {
		options = append(options, e.BlockDevice(e.LoopDevice("more"+name, "disk "+name+"\n"), "/dev/more"+name, "rwm"))
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
	dev := e.LoopDevice("used", "")
	f, err := os.OpenFile(dev, os.O_RDWR|os.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := e.Bundle(e.BlockDevice(dev, "/dev/data", "rwm"))
	e.Fails(dev+" is in use on the host", "create", "--bundle", b.Dir, e.ID())
}
