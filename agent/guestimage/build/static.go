package build

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
)

// ErrNotStatic is what a program gives that asks for an interpreter (ld.so),
// which the guest lacks.
var ErrNotStatic = errors.New("not a static program")

// CheckStatic tells whether the guest can run the program at path: it must be
// an ELF file without PT_INTERP.
func CheckStatic(path string) error {
	_, err := readStatic(path)
	return err
}

// readStatic reads a program, if it is static.
func readStatic(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrNotStatic, err)
	}
	if f.Machine != elf.EM_X86_64 {
		return nil, fmt.Errorf("%s: %w for this guest: it is for %v", path, ErrNotStatic, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("%s: %w: it asks for an interpreter", path, ErrNotStatic)
		}
	}
	return raw, nil
}
