// Package disk is what of the host a container gets as a block device: a block
// device of the host that its specification names, or an image file of the
// image service. The command says which, the monitor opens it for the VM.
package disk

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is one of them.
type Disk struct {
	// Image is the path of an image file, "" for a block device.
	Image string `json:"image,omitempty"`
	// Major and Minor are the number of a block device of the host.
	Major uint32 `json:"major,omitempty"`
	Minor uint32 `json:"minor,omitempty"`

	ReadOnly bool `json:"readOnly,omitempty"`
	// Volatile is for what nobody needs after the container.
	Volatile bool `json:"volatile,omitempty"`
	// Node is how the container sees a block device.
	Node *Node `json:"node,omitempty"`
}

// Node is a device node in a container.
type Node struct {
	Path   string      `json:"path"` // absolute
	Mode   fs.FileMode `json:"mode"` // permission bits
	UID    uint32      `json:"uid"`
	GID    uint32      `json:"gid"`
	Access string      `json:"access"` // what the container may do, of r, w and m
}

// sysBlock has a folder for each block device, by its number (sysfs(5)).
const sysBlock = "/sys/dev/block"

// Open opens the disk for a VM. A block device has to be a whole one, which
// nobody else uses, a mounted file system least of all: it is opened
// exclusively, for as long as the file and its copies are open (open(2),
// O_EXCL).
func (d *Disk) Open() (*os.File, error) {
	mode := os.O_RDWR
	if d.ReadOnly {
		mode = os.O_RDONLY
	}
	if d.Image != "" {
		return os.OpenFile(d.Image, mode|unix.O_NOFOLLOW, 0)
	}
	name := fmt.Sprintf("block device %d:%d", d.Major, d.Minor)
	path, err := d.devicePath()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f, err := os.OpenFile(path, mode|os.O_EXCL|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("%s: %s is in use on the host: %w", name, path, unix.EBUSY)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: stat %s: %w", name, path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || st.Rdev != unix.Mkdev(d.Major, d.Minor) {
		f.Close()
		return nil, fmt.Errorf("%s: %s is another file", name, path)
	}
	return f, nil
}

// devicePath finds the node of a block device in /dev, and sees to it that the
// device is a whole one.
func (d *Disk) devicePath() (string, error) {
	dir := filepath.Join(sysBlock, fmt.Sprintf("%d:%d", d.Major, d.Minor))
	f, err := os.Open(filepath.Join(dir, "uevent"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the host has none with that number: %w", unix.ENODEV)
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	name := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		switch {
		case key == "DEVTYPE" && value != "disk":
			return "", fmt.Errorf("it is a %s: only a whole device can be given to a virtual machine", value)
		case key == "DEVNAME":
			name = value
		}
	}
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the host has no name for it in %s", dir)
	}
	return filepath.Join("/dev", name), nil
}
