package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/api"
	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/state/filelock"
)

// DefaultProbeTimeout is some times what a guest needs to boot under KVM.
const DefaultProbeTimeout = 5 * time.Second

// ProbeConfig says what is probed and where the answer is kept.
type ProbeConfig struct {
	// Driver starts the trial machine.
	Driver hypervisor.Driver
	// Machine is the one to try; its Accel does not matter.
	Machine hypervisor.Config
	// ImageID identifies the guest image that Machine boots.
	ImageID string
	// CacheFile keeps the answers; a ".lock" file is made beside it. Its
	// folder must exist and belong to the user.
	CacheFile string
	// Timeout is how long the trial machine may take to say hello; 0 is
	// DefaultProbeTimeout.
	Timeout time.Duration
	// Device is the KVM device; "" is /dev/kvm.
	Device string
}

// Probe is the answer to ProbeAccel.
type Probe struct {
	Accel hypervisor.Accel
	// Reason says why it is not KVM, for the user; "" for KVM.
	Reason string
	// Fresh is whether this call found it out, so that the user can be told
	// once.
	Fresh bool
}

// ProbeAccel finds the best accelerator that works. That /dev/kvm opens and
// makes vCPUs proves nothing: on hosts that are paravirtualized guests
// themselves QEMU then dies, or the kernel never prints a line. So it boots
// the guest image once with KVM and waits for the agent's hello. The answer
// holds until the host's next boot, for this image and QEMU; when many ask at
// once, one of them tries and the others wait for its answer.
//
// An error means that there is no answer: no QEMU, an unusable cache folder,
// or the end of ctx.
func ProbeAccel(ctx context.Context, cfg ProbeConfig) (Probe, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultProbeTimeout
	}
	if cfg.Device == "" {
		cfg.Device = "/dev/kvm"
	}
	deviceErr := openDevice(cfg.Device)
	key, err := cfg.key(deviceErr)
	if err != nil {
		return Probe{}, fmt.Errorf("probe for KVM: %w", err)
	}
	if p, ok := readProbe(cfg.CacheFile, key); ok {
		return p, nil
	}
	lock := flock.New(cfg.CacheFile + ".lock")
	if err := filelock.Wait(ctx, lock.Lock, func() { lock.Close() }); err != nil {
		return Probe{}, fmt.Errorf("probe for KVM: lock %s: %w", lock.Path(), err)
	}
	defer lock.Close()
	if p, ok := readProbe(cfg.CacheFile, key); ok { // made while we waited
		return p, nil
	}

	p := Probe{Accel: hypervisor.AccelTCG, Fresh: true}
	if deviceErr != nil {
		p.Reason = deviceErr.Error()
	} else if p.Reason, err = cfg.try(ctx); err != nil {
		return Probe{}, fmt.Errorf("probe for KVM: %w", err)
	}
	if p.Reason == "" {
		p.Accel = hypervisor.AccelKVM
	}
	if err := writeProbe(cfg.CacheFile, key, p); err != nil {
		return Probe{}, fmt.Errorf("probe for KVM: %w", err)
	}
	return p, nil
}

// try boots the machine with KVM and gives the reason why that does not work,
// or "". An error means that it was not found out.
func (cfg ProbeConfig) try(ctx context.Context) (reason string, err error) {
	m := cfg.Machine
	m.Accel = hypervisor.AccelKVM
	tryCtx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()

	vm, err := cfg.Driver.Start(tryCtx, m)
	switch {
	case ctx.Err() != nil:
		if err == nil {
			err = vm.Kill()
			vm.Channel().Close()
		}
		return "", errors.Join(ctx.Err(), err)
	case errors.Is(err, fs.ErrNotExist): // no QEMU any more: says nothing about KVM
		return "", err
	case err != nil:
		return oneLine(err), nil
	}
	defer vm.Channel().Close()

	hello := make(chan error, 1)
	go func() {
		var h api.Hello
		hello <- api.ReadLine(vm.Channel(), &h) // ends at the latest with the VM
	}()
	var helloErr error
	select {
	case helloErr = <-hello:
		if errors.Is(helloErr, io.EOF) { // QEMU is ending; its process says why
			select {
			case <-vm.Done():
				helloErr = vm.Err()
			case <-tryCtx.Done():
			}
		}
	case <-vm.Done():
		helloErr = vm.Err()
	case <-tryCtx.Done():
		helloErr = fmt.Errorf("the guest did not answer in %v", cfg.Timeout)
	}
	killErr := vm.Kill()
	if err := errors.Join(ctx.Err(), killErr); err != nil {
		return "", err
	}
	if helloErr != nil {
		return oneLine(helloErr), nil
	}
	return "", nil
}

// openDevice tells why the KVM device cannot be used, as far as opening it
// can tell.
func openDevice(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot use KVM: %w", err) // has verb and path
	}
	return f.Close()
}

// oneLine is an error for a one-line notice.
func oneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
