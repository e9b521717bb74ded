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
	program, err := loadBan(hook)
	if err != nil {
		return fmt.Errorf("ban vsock sockets: load the program: %w", err)
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

// bpfInstruction is struct bpf_insn of linux/bpf.h.
type bpfInstruction struct {
	op        uint8
	registers uint8 // source << 4 | destination
	offset    int16
	constant  int32
}

// programAttr is what of union bpf_attr (linux/bpf.h) loads a program.
type programAttr struct {
	kind, instructions       uint32
	code, license            uint64
	logLevel, logSize        uint32
	log                      uint64
	kernelVersion, flags     uint32
	name                     [16]byte
	interfaceIndex, attachTo uint32
	btf, funcInfoSize        uint32
	funcInfo                 uint64
	funcInfos, lineInfoSize  uint32
	lineInfo                 uint64
	lineInfos, attachID      uint32
}

// rawTracepointAttr is what of union bpf_attr attaches a program.
type rawTracepointAttr struct {
	name    uint64
	program uint32
	_       uint32
}

// banLicense is the program's: the hooks are for such only.
var banLicense = [...]byte{'G', 'P', 'L', 0}

// loadBan gives the fd of the program.
func loadBan(hook uint32) (int, error) {
	attr := programAttr{
		kind: unix.BPF_PROG_TYPE_LSM, attachTo: unix.BPF_LSM_MAC, attachID: hook,
		// Pointers to package variables, which do not move.
		instructions: uint32(len(ban)), code: uint64(uintptr(unsafe.Pointer(&ban[0]))),
		license: uint64(uintptr(unsafe.Pointer(&banLicense[0]))),
	}
	copy(attr.name[:], "vc_vsock_ban")
	return bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}

// bpf is bpf(2).
func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
