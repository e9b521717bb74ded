// Package hypervisor is the vocabulary of virtual machines: what a machine is
// made of (Config, pure data), who starts it (Driver) and what can be done
// with it once it runs (VM). It knows no container. Only the monitor uses it.
//
// Implementations: hypervisor/qemu, and a fake in hypervisor/hypertest, which
// also holds the contract suite that both pass.
package hypervisor

import (
	"context"
	"errors"
	"net"
	"os"

	"github.com/vc-runtime/vc-runtime/state"
)

// ErrNoSlot is what plugging gives when the machine has no free slot.
var ErrNoSlot = errors.New("no free hotplug slot in the virtual machine")

// ErrNoInterrupt is what plugging gives when there is a slot, and no interrupt
// left for the device.
var ErrNoInterrupt = errors.New("more devices than the processors of the virtual machine have interrupts for")

// ErrVsock is that a machine's vsock device does not work or is not there:
// the same machine without one may.
var ErrVsock = errors.New("no vsock")

// MemoryStep is what memory that is plugged must be a multiple of, in MiB: a
// block of the guest's kernel (x86's SECTION_SIZE_BITS).
const MemoryStep = 128

// Accel is how guest code is run.
type Accel string

const (
	AccelKVM Accel = "kvm"
	AccelTCG Accel = "tcg"
)

// Config describes a virtual machine before it runs. It is pure data: the
// same Config gives the same machine.
type Config struct {
	// Name shows in the process list: whose machine it is (state.Mark).
	Name string
	// Binary is the path of the hypervisor's executable.
	Binary string
	Accel  Accel
	// CPUs is the number of vCPUs at start, MaxCPUs what can be plugged up to.
	CPUs, MaxCPUs int
	// MemoryMiB is the memory at start, MaxMemoryMiB what can be plugged up
	// to, both in MiB.
	MemoryMiB, MaxMemoryMiB int
	// Kernel and Initrd are paths of files that the guest only ever reads.
	Kernel, Initrd string
	// KernelArgs are parameters of the kernel, after the driver's own.
	KernelArgs []string
	// HotplugSlots is how many devices can be plugged at the same time.
	HotplugSlots int
	// Vsock gives the machine a vsock device, with an address that no other
	// machine of the host has.
	Vsock bool

	// MemoryFile, if set, makes a machine that can be saved as a template: it
	// is the path of a file that becomes the guest's memory.
	MemoryFile string
	// Template, if set, makes a clone: the machine does not boot, it goes on
	// where the template was saved. All else but Name must be as it was there.
	Template *Template
}

// Template is a saved machine. Its files are only read, by any number of
// clones at a time: each gets its own copy of the memory.
type Template struct {
	// Memory is the path of the MemoryFile that the machine had, State of what
	// Save has written.
	Memory, State string
}

// Driver starts virtual machines.
type Driver interface {
	// Start starts the machine and returns once the hypervisor answers on its
	// control channel; the guest may still be booting. The machine dies with
	// the calling process, even when that is killed. On an error nothing is
	// left behind.
	// The error is ErrVsock where it is the vsock device that cannot be made.
	Start(ctx context.Context, cfg Config) (VM, error)
}

// VM is a started virtual machine. Its methods may be called from any
// goroutine. Each gives up when its ctx does.
type VM interface {
	// Channel is the byte stream to the agent. It is the same connection at
	// every call. Bytes written before the guest has opened its end wait. It
	// is the caller's to close; when the machine has ended it gives what the
	// guest had said before and then io.EOF.
	Channel() net.Conn
	// DialVsock connects to a port of the guest's vsock. The guest decides
	// whether and when it answers, and who does.
	DialVsock(ctx context.Context, port uint32) (net.Conn, error)
	// PlugShare attaches a virtiofs device with the given tag, whose file
	// server is at the other end of the connected vhost-user socket. The VM
	// takes its own copy of the socket. The guest may see the device later.
	PlugShare(ctx context.Context, tag string, socket *os.File) (Device, error)
	// PlugNIC attaches a network interface whose packets go through tap
	// devices. The VM takes its own copies of the files: the tap lives until
	// those and the caller's are closed. The guest may see the device later.
	PlugNIC(ctx context.Context, nic NIC) (Device, error)
	// PlugDisks attaches between one and MaxDisks block devices, which take one
	// slot and two interrupts each, and come and go together. The VM takes its own copies of the files.
	// The guest may see the devices later.
	PlugDisks(ctx context.Context, disks []Disk) (Device, error)
	// AddMemory plugs that many MiB of memory, a multiple of MemoryStep, and
	// AddCPUs that many vCPUs: up to what the Config says, else ErrNoSlot. The
	// guest may see them later, and has to put them to use. They stay until
	// the machine's end: a guest need not let go of memory, and an emulated
	// QEMU 7.2 that has unplugged a vCPU aborts at the next hotplug.
	AddMemory(ctx context.Context, mib int) error
	AddCPUs(ctx context.Context, count int) error
	// Console is the end of what the guest has written to its console: at
	// most 64 KiB, unfiltered guest bytes.
	Console() []byte
	// Progress grows with whatever the guest writes to its console and the
	// hypervisor tells: it is how a guest that boots slowly differs from one that
	// hangs.
	Progress() uint64
	// Process is the hypervisor's process on the host.
	Process() state.Process
	// Pause stops the guest's vCPUs, Resume lets them go on.
	Pause(ctx context.Context) error
	Resume(ctx context.Context) error
	// Terminate has the machine end at once, whatever it is doing, and does not
	// wait for that: Kill does.
	Terminate() error
	// Kill ends the machine at once and returns when its process has been
	// reaped. Safe to call more than once.
	Kill() error
	// Done is closed when the machine's process has ended and was reaped.
	Done() <-chan struct{}
	// Err says why the machine ended; nil before Done and after Terminate or Kill.
	Err() error
}

// Saver is a VM whose Config had a MemoryFile.
type Saver interface {
	VM
	// Save writes the state of the machine's devices to the file and stops the
	// machine for good, so that its memory's file fits. It is to be killed then.
	Save(ctx context.Context, state *os.File) error
}

// NIC is a network interface of a VM (virtio-net).
type NIC struct {
	// Taps are the queues of one tap device, at least one, each attached with
	// IFF_VNET_HDR.
	Taps []*os.File
	// Vhost has an instance of /dev/vhost-net for each queue, or nothing where
	// the packets go through the hypervisor.
	Vhost []*os.File
	// MAC is the address that the guest finds in the device.
	MAC net.HardwareAddr
}

// MaxDisks is how many disks fit in one slot: a PCI device has eight functions.
const MaxDisks = 8

// MaxSerial is the longest serial number of a disk in bytes (virtio 1.2,
// section 5.2.6).
const MaxSerial = 20

// Disk is a block device of a VM (virtio-blk).
type Disk struct {
	// File is a regular file or a block device of the host, opened for reading
	// if ReadOnly, else for reading and writing.
	File *os.File
	// Serial is how the guest knows the disk, by its serial number: at most
	// MaxSerial bytes, unique in the VM.
	Serial   string
	ReadOnly bool
	// Volatile is for what nobody needs after the VM: flushes do nothing.
	Volatile bool
}

// Device is something plugged into a running VM.
type Device interface {
	// Unplug asks the guest to let go of the device and returns when it has
	// left the machine.
	Unplug(ctx context.Context) error
}
