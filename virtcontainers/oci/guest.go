package oci

import (
	"encoding/json"
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/vc-runtime/vc-runtime/virtcontainers/disk"
)

const (
	// guestVersion is the ociVersion of guest specifications: crun 1.8 takes
	// none without "1.0" in it.
	guestVersion = "1.0.2"
	// guestRootfs is the rootfs in the container's share.
	guestRootfs = "rootfs"
	// guestCgroups is the folder of the containers' cgroups in the guest.
	guestCgroups = "/vc/"
	// maxGuestSpec bounds a guest specification, in bytes: it travels in one
	// ttrpc message, of at most 4 MiB.
	maxGuestSpec = 3 << 20
)

// GuestOptions are what a guest specification needs beside the bundle.
type GuestOptions struct {
	ID   string // the container's
	Role Role   // what it is to its sandbox
	// PIDOf is the container of the same sandbox whose pid namespace it joins;
	// "" where it has its own.
	PIDOf string
	// Notify gives it a socket for sd_notify(3).
	Notify bool
}

// Guest is a bundle as the guest gets it.
type Guest struct {
	// Spec is the config.json of the guest's OCI runtime. The rootfs and the
	// sources of bind mounts are relative to the container's share.
	Spec []byte
	// Binds are to be shared: Binds[i] is m/i in the share.
	Binds []Bind
	// Disks are the block devices of the host that the container gets.
	Disks []disk.Disk
	// Dropped is what the bundle asks for and the guest does not get.
	Dropped []Dropped
}

// Bind is the source of a bind mount on the host.
type Bind struct {
	Source string // absolute, symlinks resolved
	// Destination is the absolute path in the container.
	Destination string
	File        bool // not a folder
	// Recursive takes the mounts below the source along.
	Recursive bool
	// ReadOnly is to be enforced by the host, RecursiveReadOnly for the mounts
	// below the source too.
	ReadOnly, RecursiveReadOnly bool
	// Propagation is what the bundle asks for. Mounts made in the guest never
	// reach the host, so that Shared can be no more than Slave. What the host
	// mounts below the source later is there with those two alone.
	Propagation Propagation
}

// Propagation is how mounts travel between two mounts (mount_namespaces(7)).
type Propagation string

const (
	Private    Propagation = "private"
	Slave      Propagation = "slave"
	Shared     Propagation = "shared"
	Unbindable Propagation = "unbindable"
)

// Guest translates the bundle. It reads from the host what the sources of bind
// mounts are; one that does not exist is an error that is fs.ErrNotExist.
func (b *Bundle) Guest(opts GuestOptions) (*Guest, error) {
	return b.guest(opts, realFiles{})
}

func (b *Bundle) guest(opts GuestOptions, files hostFiles) (*Guest, error) {
	if err := checkID(opts.ID); err != nil {
		return nil, err
	}
	t := &translation{report: newReport(), bundle: b, opts: opts, files: files}
	if err := t.run(); err != nil {
		return nil, err
	}
	data, err := encode(&guestSpec{Spec: t.spec, Mounts: append([]specs.Mount{}, t.spec.Mounts...)})
	if err != nil {
		return nil, err
	}
	return &Guest{Spec: data, Binds: t.binds, Disks: t.disks, Dropped: t.dropped}, nil
}

// GuestProcess translates an OCI process object for exec, as Bundle.Guest does
// with the container's own.
func GuestProcess(process []byte) ([]byte, []Dropped, error) {
	var src *specs.Process
	if err := decode("process", process, &src); err != nil {
		return nil, nil, err
	}
	if err := checkProcess(src); err != nil {
		return nil, nil, err
	}
	r := newReport()
	p, err := carry(r, src, "process")
	if err != nil {
		return nil, nil, err
	}
	if err := r.mapProcess(p, src); err != nil {
		return nil, nil, err
	}
	if err := checkStrings(p, "process"); err != nil {
		return nil, nil, err
	}
	data, err := encode(p)
	return data, r.dropped, err
}

// GuestResources translates an OCI resources object for update, as
// Bundle.Guest does with the container's own.
func GuestResources(resources []byte) ([]byte, []Dropped, error) {
	var src *specs.LinuxResources
	if err := decode("resources", resources, &src); err != nil {
		return nil, nil, err
	}
	if src == nil {
		src = &specs.LinuxResources{}
	}
	r := newReport()
	res, err := carry(r, src, "linux.resources")
	if err != nil {
		return nil, nil, err
	}
	if err := r.mapResources(res, src); err != nil {
		return nil, nil, err
	}
	if err := checkStrings(res, "linux.resources"); err != nil {
		return nil, nil, err
	}
	data, err := encode(res)
	return data, r.dropped, err
}

// guestSpec is a specification that always has its mounts: crun takes none
// without.
type guestSpec struct {
	*specs.Spec
	Mounts []specs.Mount `json:"mounts"`
}

func encode[T any](v *T) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode the guest's specification: %w", err)
	}
	if len(data) > maxGuestSpec {
		return nil, fmt.Errorf("the guest's specification has %d bytes, more than %d", len(data), maxGuestSpec)
	}
	return data, nil
}

// translation is one run of Bundle.Guest.
type translation struct {
	*report
	bundle *Bundle
	opts   GuestOptions
	files  hostFiles

	spec  *specs.Spec // what is being built
	binds []Bind
	disks []disk.Disk
	// podIPC says that the container is in its pod's IPC namespace, of which
	// shared memory is a part.
	podIPC bool
}

func (t *translation) run() error {
	src := t.bundle.Spec
	if err := checkProcess(src.Process); err != nil {
		return err
	}
	var err error
	if t.spec, err = carry(t.report, src, ""); err != nil {
		return err
	}
	t.spec.Version = guestVersion
	if t.spec.Root == nil {
		t.spec.Root = &specs.Root{}
	}
	t.spec.Root.Path = guestRootfs
	if err := t.mapProcess(t.spec.Process, src.Process); err != nil {
		return err
	}
	if t.spec.Linux == nil {
		t.spec.Linux = &specs.Linux{}
	}
	linux := src.Linux
	if linux == nil {
		linux = &specs.Linux{}
	}
	if err := t.mapLinux(t.spec.Linux, linux); err != nil {
		return err
	}
	if err := t.mapMounts(src.Mounts); err != nil {
		return err
	}
	if t.opts.Notify {
		t.addNotify()
	}
	return checkStrings(t.spec, "")
}

// addNotify tells the process of the socket that the agent listens on, at the
// place and in the way of runc (notify_socket.go).
func (t *translation) addNotify() {
	const dir = "/run/notify"
	t.spec.Process.Env = append(slices.Clone(t.spec.Process.Env), "NOTIFY_SOCKET="+dir+"/notify.sock")
	t.spec.Mounts = append(t.spec.Mounts, specs.Mount{
		Destination: dir, Type: "bind", Source: notifySource,
		Options: []string{"bind", "nosuid", "noexec", "nodev", "ro"},
	})
}

func (t *translation) mapLinux(dst, src *specs.Linux) error {
	dst.CgroupsPath = guestCgroups + t.opts.ID
	if !propagations[dst.RootfsPropagation] {
		return fmt.Errorf("rootfsPropagation=%s is not supported", dst.RootfsPropagation)
	}
	if err := t.mapNamespaces(dst, src); err != nil {
		return err
	}
	if err := t.mapDevices(src.Devices, allowsAll(src.Resources)); err != nil {
		return err
	}
	if src.Resources != nil {
		if err := t.mapResources(dst.Resources, src.Resources); err != nil {
			return err
		}
	}
	if src.Seccomp != nil {
		return t.mapSeccomp(dst.Seccomp, src.Seccomp)
	}
	return nil
}

// propagations are the values of linux.rootfsPropagation that runc takes.
var propagations = map[string]bool{
	"": true, "private": true, "rprivate": true, "slave": true, "rslave": true,
	"shared": true, "rshared": true, "unbindable": true, "runbindable": true,
}
