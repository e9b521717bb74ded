package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
)

// machine says what the figures were measured on, and how busy that was.
func (b *bench) machine() error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return err
	}
	_, system, _ := strings.Cut(string(release), `PRETTY_NAME="`)
	system, _, _ = strings.Cut(system, `"`)
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	accel, err := b.accel()
	if err != nil {
		return err
	}
	fmt.Printf("| | |\n|---|---|\n| processors, memory | %d, %d MB |\n| virtual machines | %s |\n| system | %s |\n| load average before | %s |\n",
		runtime.NumCPU(), uint64(info.Totalram)*uint64(info.Unit)/1e6, accel, system, strings.Fields(string(load))[0])
	programs := append([]string{"qemu-system-x86_64"}, b.withoutSpares()...)
	for _, program := range programs {
		path := strings.Fields(program)[0]
		out, err := exec.Command(path, "--version").Output()
		if len(out) == 0 { // its status may have gone to the reaper
			return fmt.Errorf("%s --version says nothing: %w", path, err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		_, version, _ := strings.Cut(line, " version ")
		fmt.Printf("| %s | %s |\n", title(program), version)
	}
	return nil
}

// accel tells whether virtual machines have KVM here, as our runtime finds it out.
func (b *bench) accel() (string, error) {
	if len(b.images) == 0 {
		return "", errors.New("no guest image: say -image")
	}
	cfg, err := bootConfig(b.images[0])
	if err != nil {
		return "", err
	}
	p, err := qemu.ProbeAccel(context.Background(), qemu.ProbeConfig{
		Driver: qemu.Driver{}, Machine: cfg, ImageID: b.images[0], CacheFile: filepath.Join(b.dir, "accel"),
	})
	if err == nil && p.Accel == hypervisor.AccelTCG {
		return "no KVM that works: all of a guest's code is emulated (TCG)", nil
	}
	return string(p.Accel), err
}
