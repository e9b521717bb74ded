package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vc-runtime/vc-runtime/agent/client"
	"github.com/vc-runtime/vc-runtime/agent/guestimage"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	"github.com/vc-runtime/vc-runtime/virtcontainers/config"
	"github.com/vc-runtime/vc-runtime/virtcontainers/monitor"
)

// Boot is the Booter of real machines: QEMU and the guest image that the
// configuration names.
func Boot(ctx context.Context, cfg *monitor.SandboxConfig, started func(hypervisor.VM) error) (*Machine, error) {
	hv := &cfg.Config.Hypervisor
	binary, err := hv.QEMUPath()
	if err != nil {
		return nil, err
	}
	folder, err := hv.GuestImagePath(cfg.Exe)
	if err != nil {
		return nil, err
	}
	image, err := guestimage.Load(folder)
	if err != nil {
		return nil, err
	}
	vmCfg := hypervisor.Config{
		Name:   cfg.ID,
		Binary: binary,
		CPUs:   hv.CPUs, MaxCPUs: hv.CPUs,
		MemoryMiB: int(hv.Memory / config.MiB), MaxMemoryMiB: int(hv.Memory / config.MiB),
		Kernel: image.KernelPath(), Initrd: image.InitrdPath(),
		HotplugSlots: hv.HotplugSlots,
	}
	if hv.Kernel != "" {
		vmCfg.Kernel = hv.Kernel
	}
	notices, err := chooseAccel(ctx, cfg, &vmCfg, image.ImageID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hv.BootTimeout.Std(),
		fmt.Errorf("the guest did not answer within %s (boot_timeout)", hv.BootTimeout.Std()))
	defer cancel()
	vm, err := qemu.Driver{}.Start(ctx, vmCfg)
	if err != nil {
		return nil, err
	}
	if err := started(vm); err != nil {
		return nil, errors.Join(err, endVM(vm))
	}
	// A VM that dies cannot answer any more.
	go func() {
		select {
		case <-vm.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	guest, err := client.Dial(ctx, vm.Channel(), client.Options{ImageID: image.ImageID})
	if err != nil {
		return nil, bootFailure(ctx, vm, err)
	}
	return &Machine{VM: vm, Guest: guest, Notices: notices}, nil
}

// probeFile remembers what the acceleration probe has found, for all roots and
// until the next boot of the host.
const probeFile = "/var/cache/vc-runtime/accel.json"

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
	if err := os.MkdirAll(filepath.Dir(probeFile), 0o700); err != nil {
		return nil, fmt.Errorf("find out whether KVM works: %w", err)
	}
	probe, err := qemu.ProbeAccel(ctx, qemu.ProbeConfig{
		Driver: qemu.Driver{}, Machine: *vm, ImageID: imageID,
		CacheFile: probeFile,
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
