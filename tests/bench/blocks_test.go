package main

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// TestReadBlocks: every column has a number, also in a guest without modules, and
// what was there before is not counted.
func TestReadBlocks(t *testing.T) {
	const before = "IN: \n0x0000000000401000:  55  pushq %rbp\n\n"
	const after = "IN: main\n0x0000000000402000:  55  pushq %rbp\n0x0000000000402001:  c3  retq\n\n" +
		"IN: \n0xffffffff81000010:  c3  retq\n\nIN: \n0xffffffff81000020:  c3  retq\n"
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte(before+after), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readBlocks(path, int64(len(before)))
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]int{"kernel": 2, "modules": 0, "programs": 1, "all": 3}; !maps.Equal(got, want) {
		t.Errorf("blocks %v, want %v", got, want)
	}
	if _, err := readBlocks(path, int64(len(before+after))); err == nil {
		t.Error("a log without code was read without an error")
	}
}
