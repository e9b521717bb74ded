package layertest

import (
	"bytes"
	"fmt"
)

// Raw makes an entry byte by byte, also one that no tar would write. The size
// is what the header says of the data.
func Raw(name string, kind byte, size int64, data string) []byte {
	return RawHeader(name, kind, fmt.Sprintf("%011o", size), data)
}

// RawHeader is Raw with the size as it stands in the header.
func RawHeader(name string, kind byte, size, data string) []byte {
	h := make([]byte, 512)
	copy(h[0:100], name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:136], size)
	copy(h[136:], "14524747400\x00")
	copy(h[148:], "        ")
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	pad := (512 - len(data)%512) % 512
	return append(append(h, data...), make([]byte, pad)...)
}

// PAX makes the records for the entry that follows.
func PAX(records ...string) []byte {
	var b bytes.Buffer
	for _, r := range records {
		// The length counts its own digits.
		n := len(r) + 3
		for len(fmt.Sprint(n)) != n-len(r)-2 {
			n++
		}
		fmt.Fprintf(&b, "%d %s\n", n, r)
	}
	return Raw("PaxHeaders/x", 'x', int64(b.Len()), b.String())
}

// Join makes a layer of parts.
func Join(parts ...[]byte) []byte {
	return append(bytes.Join(parts, nil), make([]byte, 1024)...)
}

// Sparse makes an entry of a sparse file in the form of PAX 1.0: pieces of
// data at their offsets, in a file of that size.
func Sparse(name string, size int64, pieces map[int64]string, offsets ...int64) []byte {
	m, data := fmt.Sprintf("%d\n", len(offsets)), ""
	for _, at := range offsets {
		m += fmt.Sprintf("%d\n%d\n", at, len(pieces[at]))
		data += pieces[at]
	}
	m += string(make([]byte, (512-len(m)%512)%512))
	return append(
		PAX("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.name="+name, fmt.Sprintf("GNU.sparse.realsize=%d", size)),
		Raw("GNUSparseFile.0/x", '0', int64(len(m)+len(data)), m+data)...)
}

// FixChecksums makes what may be headers valid, so that changes to them get
// past the first check.
func FixChecksums(data []byte) {
	for at := 0; at+512 <= len(data); at += 512 {
		h := data[at : at+512]
		if string(h[257:262]) != "ustar" {
			continue
		}
		copy(h[148:], "        ")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
}
