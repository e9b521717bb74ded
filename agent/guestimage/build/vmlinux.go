package build

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// errKernel is what a file gives that is no bzImage we can unpack.
var errKernel = errors.New("not a bzImage that can be unpacked")

// Offsets in a bzImage (Documentation/x86/boot.rst).
const (
	offSetupSects    = 0x1f1 // size of the real-mode part, 512-byte sectors less one
	offMagic         = 0x202 // "HdrS"
	offProtocol      = 0x206
	offPayload       = 0x248 // where the payload starts in the protected-mode part
	offPayloadLength = 0x24c
	protocolPayload  = 0x0208 // the first protocol that tells the payload
)

// compressions are those that a kernel's payload may have, by their first
// bytes. All but gzip are undone by a tool of that name.
var compressions = []struct {
	tool  string
	magic []byte
}{
	{"gzip", []byte{0x1f, 0x8b}},
	{"xz", []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
	{"zstd", []byte{0x28, 0xb5, 0x2f, 0xfd}},
}

// vmlinux unpacks the ELF kernel in a bzImage. QEMU starts it directly (PVH),
// which saves the guest from doing the same: 3 s of an emulated boot.
func vmlinux(ctx context.Context, bzImage []byte) ([]byte, error) {
	payload, err := payloadOf(bzImage)
	if err != nil {
		return nil, err
	}
	// The payload ends with the size of the kernel, in gzip's case as part of
	// the compressed form.
	size := int(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	kernel, err := decompress(ctx, payload)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKernel, err)
	}
	if len(kernel) != size {
		return nil, fmt.Errorf("%w: kernel has %d bytes, its header says %d", errKernel, len(kernel), size)
	}
	if !bytes.HasPrefix(kernel, []byte("\x7fELF")) {
		return nil, fmt.Errorf("%w: payload is no ELF file", errKernel)
	}
	return kernel, nil
}

func payloadOf(bzImage []byte) ([]byte, error) {
	if len(bzImage) < offPayloadLength+4 || string(bzImage[offMagic:offMagic+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: no boot header", errKernel)
	}
	if p := binary.LittleEndian.Uint16(bzImage[offProtocol:]); p < protocolPayload {
		return nil, fmt.Errorf("%w: boot protocol %#x", errKernel, p)
	}
	sectors := uint64(bzImage[offSetupSects])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(bzImage[offPayload:]))
	length := uint64(binary.LittleEndian.Uint32(bzImage[offPayloadLength:]))
	if length < 8 || start+length > uint64(len(bzImage)) {
		return nil, fmt.Errorf("%w: payload outside of the file", errKernel)
	}
	return bzImage[start : start+length], nil
}

func decompress(ctx context.Context, payload []byte) ([]byte, error) {
	for _, c := range compressions {
		if !bytes.HasPrefix(payload, c.magic) {
			continue
		}
		if c.tool == "gzip" {
			r, err := gzip.NewReader(bytes.NewReader(payload))
			if err != nil {
				return nil, err
			}
			r.Multistream(false)
			return io.ReadAll(r)
		}
		return command{args: []string{c.tool, "-dc"}, stdin: payload[:len(payload)-4]}.run(ctx)
	}
	return nil, fmt.Errorf("unknown compression, bytes % x", payload[:6])
}
