package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Offsets in struct bpf_sk_lookup (linux/bpf.h).
const (
	lookupFamily   = 8
	lookupProtocol = 12
	lookupLocalIP4 = 40
	lookupLocalIP6 = 44
)

// steer attaches a program to the namespace that hands new TCP connections to
// 127.0.0.0/8 to the first socket, and those to ::1 to the second one. It is
// detached by Close, and by the end of this process.
func steer(netns *os.File, sockets []*os.File) (io.Closer, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: 2})
	if err != nil {
		return nil, unsupported("make a map of sockets", err)
	}
	defer m.Close() // the program keeps it
	for i, s := range sockets {
		if err := m.Put(uint32(i), uint64(s.Fd())); err != nil {
			return nil, unsupported("map a socket", err)
		}
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0", Instructions: steering(m.FD()),
	})
	if err != nil {
		return nil, unsupported("load a program of type sk_lookup", err)
	}
	defer prog.Close() // the link keeps it
	l, err := link.AttachNetNs(int(netns.Fd()), prog)
	if err != nil {
		return nil, unsupported("attach a program of type sk_lookup", err)
	}
	return l, nil
}

func unsupported(what string, err error) error {
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%s: %w: %w", what, ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// steering is the program. Whatever it does not steer takes its usual way.
func steering(sockets int) asm.Instructions {
	load := func(offset int16) asm.Instruction { return asm.LoadMem(asm.R2, asm.R6, offset, asm.Word) }
	// Addresses are in network order, words in the machine's.
	first := int32(binary.NativeEndian.Uint32([]byte{255, 0, 0, 0}))
	loopback := int32(binary.NativeEndian.Uint32([]byte{127, 0, 0, 0}))
	one := int32(binary.NativeEndian.Uint32([]byte{0, 0, 0, 1}))
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		load(lookupProtocol),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		load(lookupFamily),
		asm.JEq.Imm(asm.R2, unix.AF_INET6, "ipv6"),
		asm.JNE.Imm(asm.R2, unix.AF_INET, "pass"),

		load(lookupLocalIP4),
		asm.And.Imm32(asm.R2, first),
		asm.JNE.Imm32(asm.R2, loopback, "pass"),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Ja.Label("assign"),

		load(lookupLocalIP6).WithSymbol("ipv6"),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		load(lookupLocalIP6 + 4),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		load(lookupLocalIP6 + 8),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		load(lookupLocalIP6 + 12),
		asm.JNE.Imm32(asm.R2, one, "pass"),
		asm.StoreImm(asm.RFP, -4, 1, asm.Word),

		asm.Mov.Reg(asm.R2, asm.RFP).WithSymbol("assign"),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Reg(asm.R2, asm.R7),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.FnSkRelease.Call(),

		asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // SK_PASS
		asm.Return(),
	}
}
