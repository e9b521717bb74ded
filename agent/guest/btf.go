package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// errBTF is type information that makes no sense.
var errBTF = errors.New("type information of the kernel (BTF) is damaged")

// Kinds of types, and how much follows the 12 bytes that each begins with:
// some bytes, and some for each of its members (kernel: Documentation/bpf/btf.rst).
const btfFunc = 12

var btfKinds = []struct{ fixed, each int }{
	1: {4, 0}, 2: {}, 3: {12, 0}, 4: {0, 12}, 5: {0, 12}, 6: {0, 8}, 7: {}, 8: {}, 9: {}, 10: {}, 11: {},
	btfFunc: {}, 13: {0, 8}, 14: {4, 0}, 15: {0, 12}, 16: {}, 17: {4, 0}, 18: {}, 19: {0, 12},
}

// btfFunction finds the number of a function in the kernel's type information
// (/sys/kernel/btf/vmlinux).
func btfFunction(btf []byte, name string) (uint32, error) {
	const header = 24
	if len(btf) < header || binary.NativeEndian.Uint16(btf) != 0xEB9F {
		return 0, fmt.Errorf("%w: no header", errBTF)
	}
	word := func(at int) int { return int(binary.NativeEndian.Uint32(btf[at:])) }
	start := word(4)
	types, err := btfSection(btf, start+word(8), word(12))
	if err != nil {
		return 0, err
	}
	names, err := btfSection(btf, start+word(16), word(20))
	if err != nil {
		return 0, err
	}
	offset := bytes.Index(names, []byte("\x00"+name+"\x00")) + 1
	if offset == 0 {
		return 0, fmt.Errorf("the kernel has no function %s", name)
	}
	for id := uint32(1); len(types) >= 12; id++ {
		info := binary.NativeEndian.Uint32(types[4:])
		kind, members := int(info>>24&0x1f), int(info&0xffff)
		if kind == btfFunc && int(binary.NativeEndian.Uint32(types)) == offset {
			return id, nil
		}
		if kind == 0 || kind >= len(btfKinds) {
			return 0, fmt.Errorf("%w: type %d is of the unknown kind %d", errBTF, id, kind)
		}
		size := 12 + btfKinds[kind].fixed + members*btfKinds[kind].each
		if size > len(types) {
			break
		}
		types = types[size:]
	}
	return 0, fmt.Errorf("the kernel has no type of the function %s", name)
}

func btfSection(btf []byte, offset, size int) ([]byte, error) {
	if offset < 0 || size < 0 || offset+size > len(btf) {
		return nil, fmt.Errorf("%w: %d bytes at %d of %d", errBTF, size, offset, len(btf))
	}
	return btf[offset : offset+size], nil
}
