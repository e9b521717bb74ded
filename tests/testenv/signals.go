package testenv

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// defaultSignals undoes that signals are ignored, which programs inherit, containers of
// runc's included: a shell ignores SIGINT for what it runs in the background, and what
// make starts ignores two that are glibc's own (posix_spawn).
func defaultSignals() error {
	type action struct{ handler, flags, restorer, mask uintptr } // the kernel's struct sigaction
	for signal := uintptr(1); signal <= 64; signal++ {
		var now, unset action
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, 0, uintptr(unsafe.Pointer(&now)), 8, 0, 0); errno != 0 {
			return fmt.Errorf("look at signal %d: %w", signal, errno)
		}
		const ignore = 1 // SIG_IGN
		if now.handler != ignore {
			continue
		}
		if _, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&unset)), 0, 8, 0, 0); errno != 0 {
			return fmt.Errorf("give signal %d its default: %w", signal, errno)
		}
	}
	return nil
}
