package guest

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

// linkAttr is what of union bpf_attr attaches a program to a cgroup.
type linkAttr struct{ program, target, attachTo, flags uint32 }

// programLicense is that of the programs: hooks of the LSM are for such only.
var programLicense = [...]byte{'G', 'P', 'L', 0}

// loadProgram gives the fd of a program; attr says of which kind it is.
func loadProgram(name string, code []bpfInstruction, attr programAttr) (int, error) {
	var pin runtime.Pinner // the kernel follows the pointers
	defer pin.Unpin()
	pin.Pin(&code[0])
	attr.instructions, attr.code = uint32(len(code)), uint64(uintptr(unsafe.Pointer(&code[0])))
	attr.license = uint64(uintptr(unsafe.Pointer(&programLicense[0]))) // a package variable, which does not move
	copy(attr.name[:len(attr.name)-1], name)
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return -1, fmt.Errorf("load the program %s: %w", name, err)
	}
	return fd, nil
}

// bpf is bpf(2).
func bpf(command uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_BPF, command, uintptr(attr), size)
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}
