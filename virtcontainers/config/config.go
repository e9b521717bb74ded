// Package config is the configuration file: what may be set, the defaults,
// and where programs and the guest image are looked for. The command reads it;
// the monitor gets it from the create that starts it.
//
// What is unknown or wrong is an error that names file, key, value and what
// was expected: a misspelt key must not become a default in silence.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// DefaultFile is read where no file is named; it need not exist.
const DefaultFile = "/etc/vc-runtime/config.toml"

// Config is the configuration. Its fields are the keys of the file, which
// keys lists; packaging/config.toml says what they are for.
type Config struct {
	Runtime    Runtime
	Hypervisor Hypervisor
	Network    Network
	Share      Share
}

// OnTerm is what kill with TERM does.
type OnTerm string

const (
	OnTermStop   OnTerm = "stop"   // a full StopContainer
	OnTermSignal OnTerm = "signal" // only delivers it
)

// Runtime is the table [runtime].
type Runtime struct {
	StopGrace   Duration
	OnTerm      OnTerm
	Annotations []string
	// CreateTimeout is for a whole create, the boot of the VM included.
	CreateTimeout Duration
	// UnclaimedTimeout is how long a sandbox, or room in the machine of one that lives
	// on, is kept whose create was killed, or was too slow, for the same create to come
	// again.
	UnclaimedTimeout Duration
	// CallTimeout is for one request to a guest that lives.
	CallTimeout Duration
	// KillTimeout is what a guest gets to confirm a KILL.
	KillTimeout Duration
	// FlushTimeout is what the rest of the output gets after a kill.
	FlushTimeout Duration
	// TeardownTimeout is for the removal of a container from a VM that goes
	// on, and for the end of a monitor.
	TeardownTimeout Duration
}

// Accel is how guest code is run.
type Accel string

const (
	AccelAuto Accel = "auto" // KVM where a guest boots on it, else TCG
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
)

// TemplateUse is whether machines begin as clones of a booted one.
type TemplateUse string

const (
	TemplateAuto TemplateUse = "auto" // where that works, else they boot
	TemplateOff  TemplateUse = "off"
)

// Channel is what carries the agent's session.
type Channel string

const (
	ChannelAuto   Channel = "auto" // vsock where that works, else virtio-serial
	ChannelVsock  Channel = "vsock"
	ChannelSerial Channel = "serial"
)

// Sizing is how large a machine is.
type Sizing string

const (
	SizingLimits Sizing = "limits" // CPUs and Memory, and more for limits that need it
	SizingStatic Sizing = "static" // CPUs and Memory
)

// Hypervisor is the table [hypervisor].
type Hypervisor struct {
	QEMU       string
	Accel      Accel
	GuestImage string
	Kernel     string
	CPUs       int
	Memory     Size
	Sizing     Sizing
	// MaxCPUs and MaxMemory are the most that a machine grows to; 0 is what
	// the host has.
	MaxCPUs   int
	MaxMemory Size
	// MemoryOverhead is what the host's cgroup allows beside the machine's
	// memory; 0 is no limit.
	MemoryOverhead Size
	// MemoryReserve is what the host has to have besides the machine's memory for
	// one to start; 0 does not look.
	MemoryReserve Size
	HotplugSlots  int
	BootTimeout   Duration
	// ConcurrentStarts is how many machines start at the same time; 0 is by the
	// host's CPUs (Starts).
	ConcurrentStarts int
	Template         TemplateUse
	Channel          Channel
	// Spares is how many machines are kept that have started before anybody has
	// asked for one; SpareTimeout is for how long nobody does. SpareDelay is how long
	// after a create that took one the next is begun.
	Spares       int
	SpareTimeout Duration
	SpareDelay   Duration
	// CacheDir keeps templates, and what has been found out about the host.
	CacheDir string
}

// NetworkMode is how packets get from an interface to a machine.
type NetworkMode string

const (
	NetworkTC      NetworkMode = "tc"      // a tap, and traffic control
	NetworkMacvtap NetworkMode = "macvtap" // a macvtap in the mode passthru
)

// VhostUse is whether the host's kernel carries the packets.
type VhostUse string

const (
	VhostAuto VhostUse = "auto" // where it can, else the hypervisor does
	VhostOff  VhostUse = "off"
)

// Network is the table [network].
type Network struct {
	Mode NetworkMode
	// Queues is the most that an interface has; with fewer vCPUs it is theirs.
	Queues int
	Vhost  VhostUse
}

// Values of Share.Cache: how long the guest may rely on what it knows of files.
const (
	CacheAuto   = "auto"
	CacheAlways = "always"
	CacheNever  = "never"
)

// Share is the table [share].
type Share struct {
	Virtiofsd string
	Cache     string
}

// Default is the configuration without a file.
func Default() *Config {
	return &Config{
		Runtime: Runtime{
			StopGrace:        Seconds(30),
			OnTerm:           OnTermStop,
			Annotations:      []string{GraceAnnotation},
			CreateTimeout:    Seconds(230),
			UnclaimedTimeout: Seconds(120),
			CallTimeout:      Seconds(60),
			KillTimeout:      Seconds(2),
			FlushTimeout:     Seconds(1),
			TeardownTimeout:  Seconds(10),
		},
		Hypervisor: Hypervisor{
			Accel:         AccelAuto,
			CPUs:          1,
			Memory:        256 * MiB,
			Sizing:        SizingLimits,
			MemoryReserve: 64 * MiB,
			HotplugSlots:  8,
			BootTimeout:   Seconds(60),
			Template:      TemplateAuto,
			Channel:       ChannelAuto,
			SpareTimeout:  Seconds(600),
			SpareDelay:    Seconds(1),
			CacheDir:      "/var/cache/vc-runtime",
		},
		Network: Network{Mode: NetworkTC, Queues: 8, Vhost: VhostAuto},
		Share:   Share{Cache: CacheAuto},
	}
}

// Load reads the file at path over the defaults. With "" it reads DefaultFile,
// if there is one.
func Load(path string) (*Config, error) {
	named := path != ""
	if !named {
		path = DefaultFile
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return Default(), nil
	}
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	return c, nil
}
