package config

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Where distributions put what the runtime needs. PATH is not looked at: some
// callers give none.
var (
	qemuPaths      = []string{"/usr/bin/qemu-system-x86_64", "/usr/local/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm"}
	virtiofsdPaths = []string{"/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd", "/usr/local/libexec/virtiofsd"}
	guestFolders   = []string{"/usr/local/lib/vc-runtime/guest", "/usr/lib/vc-runtime/guest", "/usr/share/vc-runtime/guest"}
)

// QEMUPath finds QEMU.
func (h *Hypervisor) QEMUPath() (string, error) {
	return find("QEMU", "hypervisor.qemu", "package qemu-system-x86", h.QEMU, qemuPaths)
}

// ServerPath finds the file server.
func (s *Share) ServerPath() (string, error) {
	return find("virtiofsd", "share.virtiofsd", "package qemu-system-common, or virtiofsd", s.Virtiofsd, virtiofsdPaths)
}

// GuestImagePath finds the guest image. exe is the path of the runtime, whose
// own installation is looked at first.
func (h *Hypervisor) GuestImagePath(exe string) (string, error) {
	own := filepath.Join(filepath.Dir(exe), "../lib/vc-runtime/guest")
	return find("guest image", "hypervisor.guest_image", "made and installed by `make install`", h.GuestImage, append([]string{own}, guestFolders...))
}

// find gives the configured path, or the first of the usual ones that exists.
func find(what, key, source, configured string, usual []string) (string, error) {
	candidates := usual
	if configured != "" {
		candidates = []string{configured}
	}
	for _, path := range candidates {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not there: looked for %s (%s; %s)", what, strings.Join(candidates, ", "), key, source)
}
