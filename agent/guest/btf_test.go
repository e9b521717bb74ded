package guest

import (
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
)

// btfOf makes type information of types, which name things by their offsets
// into names.
func btfOf(names string, types ...[]uint32) []byte {
	var body []byte
	for _, words := range types {
		for _, w := range words {
			body = binary.NativeEndian.AppendUint32(body, w)
		}
	}
	header := binary.NativeEndian.AppendUint16(nil, 0xEB9F)
	header = append(header, 1, 0)
	for _, w := range []int{24, 0, len(body), len(body), len(names)} {
		header = binary.NativeEndian.AppendUint32(header, uint32(w))
	}
	return append(append(header, body...), names...)
}

func info(kind, members int) uint32 { return uint32(kind<<24 | members) }

func TestBTFFunction(t *testing.T) {
	const names = "\x00int\x00hook_other\x00hook\x00a\x00"
	integer, other, hook := uint32(1), uint32(5), uint32(16)
	types := [][]uint32{
		{integer, info(1, 0), 4, 0x20},                      // 1: int
		{0, info(13, 2), 1, 21, 1, 21, 1},                   // 2: int (a int, a int)
		{hook, info(4, 1), 4, 21, 1, 0},                     // 3: struct hook: no function
		{other, info(btfFunc, 1), 2},                        // 4
		{0, info(2, 0), 1},                                  // 5: a pointer
		{hook, info(btfFunc, 1), 2},                         // 6
		{hook, info(btfFunc, 2), 2, 1, 1, 1, 1, 1, 1, 1, 1}, // more than there is
	}
	btf := btfOf(names, types[:6]...)
	for name, want := range map[string]uint32{"hook_other": 4, "hook": 6, "int": 0, "hook_o": 0, "": 0} {
		got, err := btfFunction(btf, name)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("%q: %d, %v; want %d", name, got, err, want)
		}
	}
	for at := range btf { // whatever is cut off
		if id, err := btfFunction(btf[:at], "hook"); err == nil {
			t.Errorf("%d bytes: function %d", at, id)
		}
	}
	unknown := btfOf(names, []uint32{0, info(31, 0), 0}, types[5])
	if _, err := btfFunction(unknown, "hook"); !errors.Is(err, errBTF) {
		t.Errorf("unknown kind: %v", err)
	}
	if _, err := btfFunction(btfOf(names, types[6][:3], types[5]), "none"); err == nil {
		t.Error("found none")
	}
}

// The kernel of this machine, if it has type information.
func TestBTFOfKernel(t *testing.T) {
	btf, err := os.ReadFile("/sys/kernel/btf/vmlinux")
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("NOT RUN: this machine's kernel has no type information to be read (CONFIG_DEBUG_INFO_BTF): the made-up samples are tested without")
	}
	if err != nil {
		t.Fatal(err)
	}
	id, err := btfFunction(btf, "schedule")
	if err != nil || id == 0 {
		t.Errorf("schedule is %d, %v", id, err)
	}
	if _, err := btfFunction(btf, "no such function"); err == nil || !strings.Contains(err.Error(), "no such function") {
		t.Errorf("got %v", err)
	}
}

func FuzzBTF(f *testing.F) {
	f.Add(btfOf("\x00hook\x00", []uint32{1, info(btfFunc, 0), 0}))
	f.Fuzz(func(t *testing.T, btf []byte) { btfFunction(btf, "hook") })
}
