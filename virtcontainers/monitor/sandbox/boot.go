package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vc-runtime/vc-runtime/agent/guestimage"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	"github.com/vc-runtime/vc-runtime/hypervisor/template"
	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/state/failpoint"
	"github.com/vc-runtime/vc-runtime/trace"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Boot is the Booter of real machines: QEMU and the guest image that the
// configuration names.
func Boot(ctx context.Context, cfg *monitor.SandboxConfig, started func(hypervisor.VM) error) (*Machine, error) {
	b, notices, err := prepare(ctx, cfg)
	if err != nil {
		return nil, err
	}
	b.started, b.spare = started, cfg.Spare
	if err := failpoint.Here(failpoint.MonitorPlace); err != nil {
		return nil, err
	}
	place, err := b.place(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.roomAnyhow(ctx, cfg); err != nil {
		return nil, errors.Join(err, place.Close())
	}
	m, err := b.bootAnyhow(ctx)
	if err != nil {
		return nil, errors.Join(err, place.Close())
	}
	m.place = place
	m.Notices = append(notices, m.Notices...)
	return m, nil
}

// prepare finds out what machine the configuration means.
func prepare(ctx context.Context, cfg *monitor.SandboxConfig) (b *booting, notices []string, err error) {
	defer trace.Begin(ctx, trace.Phase, "look at image and host").End()
	hv := &cfg.Config.Hypervisor
	binary, err := hv.QEMUPath()
	if err != nil {
		return nil, nil, err
	}
	folder, err := hv.GuestImagePath(cfg.Exe)
	if err != nil {
		return nil, nil, err
	}
	image, err := guestimage.Load(folder)
	if err != nil {
		return nil, nil, err
	}
	if err := makeCache(cfg); err != nil {
		return nil, nil, err
	}
	if err := verifyOnce(hv.CacheDir, image); err != nil {
		return nil, nil, err
	}
	mostCPUs, mostMemory := hv.Most()
	vmCfg := hypervisor.Config{
		Name:   state.Mark(cfg.Root, cfg.ID),
		Binary: binary,
		CPUs:   hv.CPUs, MaxCPUs: mostCPUs,
		MemoryMiB: int(hv.Memory / config.MiB), MaxMemoryMiB: int(mostMemory / config.MiB),
		Kernel: image.KernelPath(), Initrd: image.InitrdPath(),
		HotplugSlots: hv.HotplugSlots,
	}
	if hv.Kernel != "" {
		vmCfg.Kernel = hv.Kernel
	}
	if notices, err = chooseAccel(ctx, cfg, &vmCfg, image.ImageID); err != nil {
		return nil, nil, err
	}
	more, err := chooseChannel(hv.Channel, &vmCfg, qemu.CheckVsock)
	if err != nil {
		return nil, nil, err
	}
	return &booting{driver: qemu.Driver{}, hv: hv, root: cfg.Root, machine: vmCfg, imageID: image.ImageID}, append(notices, more...), nil
}

// bootAnyhow gives a machine, without vsock if it is that which does not work
// and need not.
func (b *booting) bootAnyhow(ctx context.Context) (*Machine, error) {
	m, err := b.boot(ctx)
	if !b.dropVsock(ctx, err) {
		return m, err
	}
	m, bootErr := b.boot(ctx)
	if bootErr != nil {
		return nil, bootErr
	}
	m.Notices = append(m.Notices, serialInstead(err))
	return m, nil
}

// boot gives a clone where that is wanted and works, else a machine that boots.
func (b *booting) boot(ctx context.Context) (*Machine, error) {
	var notices []string
	if b.hv.Template == config.TemplateAuto {
		m, err := b.clone(ctx)
		if err == nil || ctx.Err() != nil || b.spare || errors.Is(err, hypervisor.ErrVsock) {
			return m, err
		}
		if !errors.Is(err, template.ErrFailedBefore) { // else it has been said
			notices = append(notices, fmt.Sprintf("no clone, the virtual machine boots: %v", err))
		}
	}
	if b.spare {
		return nil, errors.New("a spare has to be a clone (hypervisor.template)")
	}
	ctx, cancel := b.limit(ctx)
	defer cancel()
	m, err := b.start(ctx, nil)
	if err != nil {
		return nil, err
	}
	m.Notices = append(m.Notices, notices...)
	return m, nil
}

// makeCache makes the cache's folder. Where that cannot be, on a read-only /var
// say, what is worth remembering goes with the state.
func makeCache(cfg *monitor.SandboxConfig) error {
	hv := &cfg.Config.Hypervisor
	if os.MkdirAll(hv.CacheDir, 0o700) == nil {
		return nil
	}
	hv.CacheDir = filepath.Join(cfg.Root, "cache")
	if err := os.MkdirAll(hv.CacheDir, 0o700); err != nil {
		return fmt.Errorf("make the cache (hypervisor.cache_dir): %w", err)
	}
	return nil
}

// probeName is the file in the cache that remembers what the acceleration
// probe has found, for all roots and until the next boot of the host.
const probeName = "accel.json"

// chooseAccel sets how the guest is run: as configured, or by KVM where this
// image has been seen to boot on it.
func chooseAccel(ctx context.Context, cfg *monitor.SandboxConfig, vm *hypervisor.Config, imageID string) (notices []string, err error) {
	switch cfg.Config.Hypervisor.Accel {
	case config.AccelKVM:
		vm.Accel = hypervisor.AccelKVM
		return nil, nil
	case config.AccelTCG:
		vm.Accel = hypervisor.AccelTCG
		return nil, nil
	}
	probe, err := qemu.ProbeAccel(ctx, qemu.ProbeConfig{
		Driver: qemu.Driver{}, Machine: *vm, ImageID: imageID,
		CacheFile: filepath.Join(cfg.Config.Hypervisor.CacheDir, probeName),
	})
	if err != nil {
		return nil, fmt.Errorf("find out whether KVM works: %w", err)
	}
	vm.Accel = probe.Accel
	if probe.Fresh && probe.Accel == hypervisor.AccelTCG {
		notices = append(notices, fmt.Sprintf("KVM does not work here (%s): virtual machines are emulated, which is slow", probe.Reason))
	}
	return notices, nil
}

// bootFailure ends a VM whose agent did not answer, and says why it did not.
func bootFailure(ctx context.Context, vm hypervisor.VM, err error) error {
	if dead := vm.Err(); dead != nil {
		err = dead
	} else if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	killErr := endVM(vm)
	if tail := consoleTail(vm.Console()); tail != "" {
		err = fmt.Errorf("boot the VM: %w; the guest's console ends with: %s", err, tail)
	} else {
		err = fmt.Errorf("boot the VM: %w; the guest's console is empty", err)
	}
	return errors.Join(err, killErr)
}

func endVM(vm hypervisor.VM) error {
	defer vm.Channel().Close()
	return vm.Kill()
}
