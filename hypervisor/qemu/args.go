package qemu

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// maxSlots is how many root ports fit on the root bus: devices 5 to 30. The
// ones below are the host bridge and our own devices, 31 is the ICH9.
const maxSlots = 26

// firstSlot is the device number of the first root port on the root bus.
const firstSlot = 5

// Layout is what the process that starts QEMU adds to a hypervisor.Config.
type Layout struct {
	// QMP, Console and Channel are numbers of fds in QEMU, each the end of a
	// connected stream socket.
	QMP, Console, Channel int
	// Memory is the number of the fd in QEMU that is the memory of a clone.
	Memory int
	// Vsock is the number of the fd in QEMU of a vsock device, CID its address.
	Vsock int
	CID   uint32
	// TSC is the frequency in kHz of the counter that an emulated guest reads as
	// its own; 0 to let the guest find out.
	TSC int
	// Firmware is the path of a firmware that starts a PVH kernel faster than
	// QEMU's default; "" for the default. Templates and clones use the default.
	Firmware string
}

// kernelArgs are the parameters of every guest kernel.
//
//	panic=-1 reboot=t  a panic is a triple fault at once, which ends QEMU (-no-reboot)
//	oops=panic     a kernel that found a bug of its own is not to be trusted, and what
//	               was at work then never ends: the machine does
//	tsc=reliable no_timer_check  no calibration against emulated timers
//	cryptomgr.notests  without the self tests at boot: 0.2 s under TCG
//	pcie_ports=compat  hotplug goes by ACPI: no port service to probe for
//	swiotlb=noforce  no 64 MiB set aside for devices that cannot reach all memory,
//	                 which a machine that can grow could have
//	pcie_aspm=off  no link of an emulated slot saves power
//	lsm=           without AppArmor and Tomoyo, which have no rules in the guest and
//	               stand in the way of every path; bpf bans vsock (agent/guest)
var kernelArgs = []string{
	"console=ttyS0", "quiet", "panic=-1", "reboot=t", "oops=panic",
	"tsc=reliable", "no_timer_check", "cryptomgr.notests", "pcie_ports=compat", "swiotlb=noforce",
	"pcie_aspm=off", "lsm=landlock,yama,bpf",
}

// Args is the command line of the QEMU for cfg, without argv[0]: a pure
// function. What is not in it does not exist in the machine, so this is also
// the list of what a hostile guest can attack: no disk, no network, no
// display, no USB, no monitor but QMP on an inherited socket.
func Args(cfg hypervisor.Config, l Layout) []string {
	var a argv
	a.add("-name", "guest="+escape(cfg.Name))
	a.add("-no-user-config", "-nodefaults")
	a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	a.add("-display", "none")
	a.add("-no-reboot")

	// The memory is shared because vhost-user devices read and write it from
	// their own processes: with share=off a virtiofs mount hangs.
	a.add("-machine", "q35,memory-backend=mem,dump-guest-core=off,sata=off,smbus=off,usb=off,vmport=off,i8042=off")
	a.add("-accel", accelerator(cfg.Accel))
	a.add("-cpu", cpuModel(cfg.Accel))
	a.add("-smp", smp(cfg))
	a.add("-m", memory(cfg))
	a.add("-object", memoryBackend(cfg, l))
	a.addBoot(cfg, l)

	a.add("-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", l.QMP))
	a.add("-mon", "chardev=qmp,mode=control")
	a.add("-chardev", fmt.Sprintf("socket,id=console,fd=%d", l.Console))
	a.add("-device", "isa-serial,chardev=console")
	a.add("-chardev", fmt.Sprintf("socket,id=channel,fd=%d", l.Channel))
	a.add("-device", "virtio-serial-pci,id=serial,bus=pcie.0,addr=0x2")
	a.add("-device", "virtserialport,bus=serial.0,chardev=channel,name="+api.PortName)

	if cfg.Vsock {
		// Templates and clones have one as well: to plug one in would cost each
		// clone the plugging.
		a.add("-device", fmt.Sprintf("%s,id=vsock,bus=pcie.0,addr=0x1,vhostfd=%d,guest-cid=%d", vsockDriver, l.Vsock, l.CID))
	}
	if snapshots(cfg) {
		// Tells the kernel that it is a clone now: it draws new random numbers.
		a.add("-device", "vmgenid,guid=auto")
	}
	// The guest tells which pages it does not use, and QEMU makes holes of them
	// in the memory's file, which is shared with the file servers. Nobody asks
	// for more than that: the balloon stays empty.
	a.add("-device", "virtio-balloon-pci,id=balloon,free-page-reporting=on,bus=pcie.0,addr=0x4")
	a.add("-object", "rng-builtin,id=rng")
	a.add("-device", "virtio-rng-pci,rng=rng,bus=pcie.0,addr=0x3")
	for slot := range cfg.HotplugSlots {
		// One function each: multifunction ports cost the guest as much.
		a.add("-device", fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,addr=%#x,chassis=%d,slot=%d",
			portID(slot), firstSlot+slot, slot+1, slot+1))
	}
	return a
}

// snapshots reports whether the machine is a template or a clone. Both must
// have the same devices.
func snapshots(cfg hypervisor.Config) bool { return cfg.MemoryFile != "" || cfg.Template != nil }

// memoryBackend is where the guest's memory is.
func memoryBackend(cfg hypervisor.Config, l Layout) string {
	where := "memory-backend-memfd,id=mem"
	switch {
	case cfg.Template != nil:
		where = fmt.Sprintf("memory-backend-file,id=mem,mem-path=/proc/self/fd/%d", l.Memory)
	case cfg.MemoryFile != "":
		where = "memory-backend-file,id=mem,mem-path=" + escape(cfg.MemoryFile)
	}
	return fmt.Sprintf("%s,size=%dM,share=on", where, cfg.MemoryMiB)
}

// addBoot adds what the machine starts with: a kernel, or a template's state.
func (a *argv) addBoot(cfg hypervisor.Config, l Layout) {
	if cfg.Template != nil {
		a.add("-incoming", "defer")
		return
	}
	// qboot hangs on the ACPI table of vmgenid (QEMU 7.2).
	if l.Firmware != "" && !snapshots(cfg) {
		a.add("-bios", l.Firmware)
	}
	a.add("-kernel", cfg.Kernel)
	a.add("-initrd", cfg.Initrd)
	a.add("-append", kernelCommandLine(cfg, l))
}

// Quote writes a command line for a shell, one option a line, to reproduce a
// start by hand. Its fds must be replaced by sockets there.
func Quote(binary string, args []string) string {
	var b strings.Builder
	b.WriteString(quote(binary))
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			b.WriteString(" \\\n ")
		}
		b.WriteString(" " + quote(arg))
	}
	return b.String() + "\n"
}

// check says what in cfg cannot make a machine.
func check(cfg hypervisor.Config) error {
	switch {
	case cfg.Accel != hypervisor.AccelKVM && cfg.Accel != hypervisor.AccelTCG:
		return fmt.Errorf("accelerator %q: not kvm or tcg", cfg.Accel)
	case cfg.CPUs < 1 || cfg.MaxCPUs != 0 && cfg.MaxCPUs < cfg.CPUs:
		return fmt.Errorf("%d CPUs of at most %d", cfg.CPUs, cfg.MaxCPUs)
	case cfg.MemoryMiB < 1 || cfg.MaxMemoryMiB != 0 && cfg.MaxMemoryMiB < cfg.MemoryMiB:
		return fmt.Errorf("%d MiB of memory of at most %d", cfg.MemoryMiB, cfg.MaxMemoryMiB)
	case cfg.HotplugSlots < 0 || cfg.HotplugSlots > maxSlots:
		return fmt.Errorf("%d hotplug slots: not 0 to %d", cfg.HotplugSlots, maxSlots)
	case cfg.MemoryFile != "" && cfg.Template != nil:
		return errors.New("a clone that is to be a template")
	case strings.ContainsRune(cfg.MemoryFile, 0):
		return fmt.Errorf("memory file %q", cfg.MemoryFile)
	}
	for _, s := range append([]string{cfg.Name, cfg.Binary, cfg.Kernel, cfg.Initrd}, cfg.KernelArgs...) {
		if s == "" || strings.ContainsRune(s, 0) {
			return fmt.Errorf("name, path or kernel parameter %q", s)
		}
	}
	return nil
}

// argv is a command line in the making.
type argv []string

func (a *argv) add(words ...string) { *a = append(*a, words...) }

// accelerator has one thread emulate all vCPUs in turn. With a thread for each
// (thread=multi), a vCPU that translates code while another one's kernel changes
// it (jump labels) can keep the old translation for good: QEMU 7.2 stops within
// some hundred such changes, and both vCPUs wait for each other for ever.
func accelerator(accel hypervisor.Accel) string {
	if accel == hypervisor.AccelTCG {
		return "tcg,thread=single"
	}
	return string(accel)
}

func cpuModel(accel hypervisor.Accel) string {
	if accel == hypervisor.AccelKVM {
		return "host"
	}
	// With "enhanced rep movsb" the guest's kernel copies and clears pages byte
	// by byte, which emulation does not make quick: fork and exec take three
	// times as long.
	return "max,-erms,-fsrm"
}

// smp makes each vCPU a socket: the topology of hot-plugged ones must be
// given, and must not depend on the machine type's version.
func smp(cfg hypervisor.Config) string {
	most := max(cfg.CPUs, cfg.MaxCPUs)
	return fmt.Sprintf("cpus=%d,maxcpus=%d,sockets=%d,cores=1,threads=1", cfg.CPUs, most, most)
}

func memory(cfg hypervisor.Config) string {
	if cfg.MaxMemoryMiB <= cfg.MemoryMiB {
		return fmt.Sprintf("size=%dM", cfg.MemoryMiB)
	}
	return fmt.Sprintf("size=%dM,slots=%d,maxmem=%dM", cfg.MemoryMiB, memorySlots, cfg.MaxMemoryMiB)
}

func kernelCommandLine(cfg hypervisor.Config, l Layout) string {
	args := kernelArgs[:len(kernelArgs):len(kernelArgs)]
	if cfg.Accel == hypervisor.AccelTCG {
		// Emulated code has no speculation to mitigate, but pays for the
		// instructions. Under KVM the guest's kernel needs them. And a kernel that
		// boots with one CPU takes out the lock prefixes of its atomic instructions,
		// one at a time (and puts them back when another is plugged): 35,000 TLB
		// flushes of 36,000. Emulated in one thread they cost nothing; under KVM
		// a kernel with one CPU is better off without them.
		args = append(args, "mitigations=off", "noreplace-smp", api.EmulatedArg)
		if l.TSC > 0 {
			args = append(args, fmt.Sprintf("tsc_early_khz=%d", l.TSC))
		}
	}
	return strings.Join(append(args, cfg.KernelArgs...), " ")
}

func portID(slot int) string { return "rp" + strconv.Itoa(slot) }

// escape doubles the commas of a value in an option list (QEMU: qemu-option.c).
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

func quote(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=,.:/+@%"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
