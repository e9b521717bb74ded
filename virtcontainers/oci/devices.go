package oci

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/virtcontainers/disk"
)

// maxDevices bounds the devices of a container.
const maxDevices = 4096

// number is a device's number.
type number struct{ major, minor int64 }

// guestDevices are the character devices that mean the same in every kernel
// (Documentation/admin-guide/devices.txt): the guest has its own.
var guestDevices = map[number]string{
	{1, 3}: "null", {1, 5}: "zero", {1, 7}: "full", {1, 8}: "random", {1, 9}: "urandom",
	{1, 11}: "kmsg", {5, 0}: "tty", {5, 1}: "console", {5, 2}: "ptmx",
	{10, 200}: "net/tun", {10, 229}: "fuse",
}

// mapDevices carries the devices that the guest has. Others are refused, but
// for a container that may use every device, whose caller lists all of the
// host's: there they are left out.
func (t *translation) mapDevices(devices []specs.LinuxDevice, privileged bool) error {
	if len(devices) > maxDevices {
		return fmt.Errorf("linux.devices: %d are more than %d", len(devices), maxDevices)
	}
	for i := range devices {
		field := fmt.Sprintf("linux.devices[%d]", i)
		d, err := carry(t.report, &devices[i], field)
		if err != nil {
			return err
		}
		d.FileMode = devices[i].FileMode
		if privileged && !inGuest(*d) {
			t.drop(field, fmt.Sprintf("%s %d:%d is not in the guest", d.Path, d.Major, d.Minor))
			continue
		}
		if d.Type == "b" {
			if err := t.addDisk(d, field); err != nil {
				return err
			}
			continue
		}
		if err := t.addDevice(*d, field); err != nil {
			return err
		}
	}
	return nil
}

// inGuest says whether a device, or a pipe, can be made in the guest.
func inGuest(d specs.LinuxDevice) bool {
	switch d.Type {
	case "c", "u":
		return guestDevices[number{d.Major, d.Minor}] != ""
	case "p":
		return true
	}
	return false
}

func (t *translation) addDevice(d specs.LinuxDevice, field string) error {
	switch {
	case !strings.HasPrefix(d.Path, "/") || d.Path == "/":
		return fmt.Errorf("%s: %q is not an absolute path", field, d.Path)
	case d.Type == "b":
		// Never because something happens to be one: whoever wants the guest to
		// have a disk of the host has to say so (CVE-2026-24054).
		return fmt.Errorf("%s: %s: a block device can only be given by linux.devices, not mounted", field, d.Path)
	case d.Type != "c" && d.Type != "u" && d.Type != "p":
		return fmt.Errorf("%s: %s: unknown type %q", field, d.Path, d.Type)
	case !inGuest(d):
		return fmt.Errorf("%s: %s: the device %d:%d of the host cannot be given to the guest", field, d.Path, d.Major, d.Minor)
	}
	mode := fs.FileMode(0o666)
	if d.FileMode != nil {
		mode = *d.FileMode & 0o777 // podman and docker leave the file's type in
	}
	d.FileMode = &mode
	t.spec.Linux.Devices = append(t.spec.Linux.Devices, d)
	return nil
}

// addDisk has a block device of the host plugged into the VM. In the guest it
// gets another number.
func (t *translation) addDisk(d *specs.LinuxDevice, field string) error {
	const most = 1<<20 - 1 // a minor has 20 bits, a major 12
	switch {
	case path.Clean(d.Path) != d.Path || !strings.HasPrefix(d.Path, "/") || d.Path == "/":
		return fmt.Errorf("%s: %q is not a clean absolute path", field, d.Path)
	case d.Major < 0 || d.Major > 1<<12-1 || d.Minor < 0 || d.Minor > most:
		return fmt.Errorf("%s: %s: %d:%d is not the number of a device", field, d.Path, d.Major, d.Minor)
	}
	access := accessTo(number{d.Major, d.Minor}, t.bundle.Spec.Linux.Resources)
	if access == "" {
		t.drop(field, d.Path+": no rule of linux.resources.devices allows its use")
		return nil
	}
	node := &disk.Node{Path: d.Path, Mode: 0o666, Access: access}
	if d.FileMode != nil {
		node.Mode = d.FileMode.Perm()
	}
	if d.UID != nil {
		node.UID = *d.UID
	}
	if d.GID != nil {
		node.GID = *d.GID
	}
	t.disks = append(t.disks, disk.Disk{
		Major: uint32(d.Major), Minor: uint32(d.Minor), ReadOnly: !strings.Contains(access, "w"), Node: node,
	})
	return nil
}

// accessTo is what the rules leave of r, w and m for a block device.
func accessTo(n number, res *specs.LinuxResources) string {
	if res == nil {
		return ""
	}
	allowed := make(map[rune]bool)
	for _, rule := range res.Devices {
		block := rule.Type == "" || rule.Type == "a" || rule.Type == "b"
		matches := func(want *int64, have int64) bool { return anyNumber(want) || *want == have }
		if !block || !matches(rule.Major, n.major) || !matches(rule.Minor, n.minor) {
			continue
		}
		access := rule.Access
		if access == "" {
			access = "rwm"
		}
		for _, c := range access {
			allowed[c] = rule.Allow
		}
	}
	access := ""
	for _, c := range "rwm" {
		if allowed[c] {
			access += string(c)
		}
	}
	return access
}

// allowsAll says whether the last rule for all devices lets the container use
// them: what callers write for a privileged container.
func allowsAll(res *specs.LinuxResources) bool {
	if res == nil {
		return false
	}
	all := false
	for _, rule := range res.Devices {
		if (rule.Type == "" || rule.Type == "a") && anyNumber(rule.Major) && anyNumber(rule.Minor) {
			all = rule.Allow && strings.Contains(rule.Access, "r") && strings.Contains(rule.Access, "w")
		}
	}
	return all
}

func anyNumber(n *int64) bool { return n == nil || *n < 0 }
