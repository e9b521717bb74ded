package guestimage

// What the initrd holds, as paths in the guest.
const (
	// InitPath is the agent.
	InitPath = "/init"
	// CrunPath is the OCI runtime, linked statically.
	CrunPath = "/usr/bin/crun"
	// ModulesDir holds the kernel modules, not compressed: finit_module(2)
	// takes them as they are.
	ModulesDir = "/lib/vc/modules"
	// ModulesFile is a Modules in JSON.
	ModulesFile = "/etc/vc/modules.json"
	// ImageFile is an Image in JSON.
	ImageFile = "/etc/vc/image.json"
)

// Modules are the kernel modules of the initrd, as paths in load order.
// What the kernel has built in is not among them.
type Modules struct {
	// Boot is what it takes to answer the host; it is loaded first.
	Boot []string `json:"boot"`
	// Groups are loaded on demand, after Boot. Each is complete by itself, so
	// that a module may be in several: EEXIST from finit_module is no error.
	// A group is empty where the kernel has it all built in.
	Groups map[ModuleGroup][]string `json:"groups"`
}

// ModuleGroup names what a group of modules is for.
type ModuleGroup string

// The groups that every image has.
const (
	GroupVirtiofs ModuleGroup = "virtiofs"
	GroupOverlay  ModuleGroup = "overlay"
	GroupErofs    ModuleGroup = "erofs"
	GroupExt4     ModuleGroup = "ext4"
	GroupBlock    ModuleGroup = "block" // virtio-blk
	GroupNet      ModuleGroup = "net"   // virtio-net
	// GroupVsockSockets is for vsock sockets, GroupVsock for the device.
	GroupVsockSockets ModuleGroup = "vsock-sockets"
	GroupVsock        ModuleGroup = "vsock"
	GroupRNG          ModuleGroup = "rng"     // virtio-rng
	GroupBalloon      ModuleGroup = "balloon" // virtio-balloon: gives free memory back
)

// Image tells the agent which image it was booted from.
type Image struct {
	ImageID  string `json:"imageId"`
	Protocol int    `json:"protocol"`
}
