package build

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
)

// hook is the kernel's function that the agent attaches a BPF program to, the
// ban of vsock sockets (agent/guest: vsockban.go).
const hook = "bpf_lsm_socket_create"

// What the function must begin with: the no-op of five bytes that the kernel
// writes a call over (arch/x86/net/bpf_jit_comp.c, bpf_arch_text_poke), after
// the mark of a function that may be called by pointer, if there is one.
var (
	hookNop  = []byte{0x0f, 0x1f, 0x44, 0x00, 0x00}
	hookMark = []byte{0xf3, 0x0f, 0x1e, 0xfa} // endbr64
)

// errHook is a kernel in which the agent could not ban vsock sockets.
var errHook = errors.New("kernel has no hook that a program can be attached to")

// checkHook makes sure that a program can be attached to the hook of a kernel,
// an ELF file with its symbols.
func checkHook(vmlinux string) error {
	f, err := elf.Open(vmlinux)
	if err != nil {
		return err
	}
	defer f.Close()
	symbols, err := f.Symbols()
	if err != nil {
		return fmt.Errorf("%s: %w", vmlinux, err)
	}
	for _, s := range symbols {
		if s.Name != hook {
			continue
		}
		if int(s.Section) >= len(f.Sections) {
			return fmt.Errorf("%w: %s is in no section", errHook, hook)
		}
		section := f.Sections[s.Section]
		begin := make([]byte, len(hookMark)+len(hookNop))
		if _, err := section.ReadAt(begin, int64(s.Value-section.Addr)); err != nil {
			return fmt.Errorf("%s: read %s: %w", vmlinux, hook, err)
		}
		if !bytes.HasPrefix(bytes.TrimPrefix(begin, hookMark), hookNop) {
			return fmt.Errorf("%w: %s begins with % x, expected % x", errHook, hook, begin, hookNop)
		}
		return nil
	}
	return fmt.Errorf("%w: there is no %s", errHook, hook)
}
