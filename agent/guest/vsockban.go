package guest

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socketCreate is the function that the kernel calls where a program is
// attached to the LSM hook socket_create.
const socketCreate = "bpf_lsm_socket_create"

// banVsock keeps everybody from making vsock sockets for as long as the
// machine runs: a container in a machine with a vsock device could reach what
// listens on vsock on the host. A program at the kernel's own check sees every
// way to make a socket: 32-bit calls and io_uring as well, which a seccomp
// filter would not. What has been opened before stays.
func banVsock() error {
	btf, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if err != nil {
		return fmt.Errorf("ban vsock sockets: %w", err)
	}
	hook, err := btfFunction(btf, socketCreate)
	if err != nil {
		return fmt.Errorf("ban vsock sockets: %w", err)
	}
	program, err := loadProgram("vc_vsock_ban", ban[:], programAttr{kind: unix.BPF_PROG_TYPE_LSM, attachTo: unix.BPF_LSM_MAC, attachID: hook})
	if err != nil {
		return fmt.Errorf("ban vsock sockets: %w", err)
	}
	// The link is never closed: its end would be that of the ban.
	attr := rawTracepointAttr{program: uint32(program)}
	_, err = bpf(unix.BPF_RAW_TRACEPOINT_OPEN, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err := errors.Join(err, unix.Close(program)); err != nil {
		return fmt.Errorf("ban vsock sockets: attach the program: %w", err)
	}
	return probeBan()
}

// probeBan makes sure of the ban: the kernel may not use the hook (lsm=).
func probeBan() error {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
		return errors.New("ban vsock sockets: they can still be made")
	}
	if !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("ban vsock sockets: make one: %w", err)
	}
	return nil
}

// ban is the program. Its arguments are those of the hook, 8 bytes each; its
// result is the hook's: 0, or an error as where there is no vsock. An
// instruction is an operation, registers, an offset and a constant (kernel:
// Documentation/bpf/instruction-set.rst).
var ban = [...]bpfInstruction{
	{unix.BPF_LDX | unix.BPF_MEM | unix.BPF_DW, 0x16, 0, 0},                          // r6 = family
	{unix.BPF_JMP32 | unix.BPF_JNE | unix.BPF_K, 0x06, 2, unix.AF_VSOCK},             // if r6 != AF_VSOCK skip 2
	{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, 0x00, 0, -int32(unix.EAFNOSUPPORT)}, // r0 = -EAFNOSUPPORT
	{unix.BPF_JMP | unix.BPF_EXIT, 0, 0, 0},
	{unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K, 0x00, 0, 0}, // r0 = 0
	{unix.BPF_JMP | unix.BPF_EXIT, 0, 0, 0},
}
