package sandbox

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// rehearsedSize is how large the program of a rehearsal is, in bytes: its pages are
// read as they are touched, as those of a container's program are, and ahead.
const rehearsedSize = 256 << 10

// rehearsedCode is the program of a rehearsal: it touches itself all over, reads its
// input to the end, writes a byte to each of its outputs, and exits. It is code of the
// guest's processor.
var rehearsedCode = []byte{
	0xbf, 0x00, 0x00, 0x40, 0x00, //       mov edi, 0x400000  where it is loaded
	0x8a, 0x07, //                         mov al, [rdi]
	0x81, 0xc7, 0x00, 0x00, 0x01, 0x00, // add edi, 0x10000
	0x81, 0xff, 0x00, 0x00, 0x44, 0x00, // cmp edi, 0x440000  where it ends
	0x72, 0xf0, //                         jb -16
	0x31, 0xff, //                         xor edi, edi
	0x48, 0x8d, 0x74, 0x24, 0xf0, //       lea rsi, [rsp-16]
	0xba, 0x01, 0x00, 0x00, 0x00, //       mov edx, 1
	0x31, 0xc0, //                         xor eax, eax
	0x0f, 0x05, //                         syscall            read(0, rsi, 1)
	0x85, 0xc0, //                         test eax, eax
	0x7f, 0xec, //                         jg -20
	0xff, 0xc7, //                         inc edi
	0xb8, 0x01, 0x00, 0x00, 0x00, //       mov eax, 1
	0x0f, 0x05, //                         syscall            write(1, rsi, 1)
	0xff, 0xc7, //                         inc edi
	0xb8, 0x01, 0x00, 0x00, 0x00, //       mov eax, 1
	0x0f, 0x05, //                         syscall            write(2, rsi, 1)
	0x31, 0xff, //                         xor edi, edi
	0xb8, 0xe7, 0x00, 0x00, 0x00, //       mov eax, 231
	0x0f, 0x05, //                         syscall            exit_group(0)
}

// rehearsed is that program as a static executable.
func rehearsed() []byte {
	const base = 0x400000
	h := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phnum: 1,
	}
	h.Ehsize, h.Phentsize = uint16(binary.Size(h)), uint16(binary.Size(elf.Prog64{}))
	h.Phoff = uint64(h.Ehsize)
	code := h.Phoff + uint64(h.Phnum*h.Phentsize)
	h.Entry = base + code
	load := elf.Prog64{
		Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X),
		Vaddr: base, Paddr: base, Filesz: rehearsedSize, Memsz: rehearsedSize, Align: 0x1000,
	}
	var b bytes.Buffer
	for _, part := range []any{h, load, rehearsedCode} {
		binary.Write(&b, binary.LittleEndian, part) // of a fixed size, into memory
	}
	b.Write(make([]byte, rehearsedSize-b.Len()))
	return b.Bytes()
}
