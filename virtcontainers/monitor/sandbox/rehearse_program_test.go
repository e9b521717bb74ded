package sandbox

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
)

// TestRehearsedPages: a program is read as its pages are touched, and ahead. One of
// a page, or one that touches one, would leave to a container's program what a
// rehearsal is for.
func TestRehearsedPages(t *testing.T) {
	const page, fewest = 4096, 16 // the pages that Linux reads around a fault (fault_around_bytes)
	program := rehearsed()
	f, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		t.Fatal(err)
	}
	if f.Type != elf.ET_EXEC || f.Machine != elf.EM_X86_64 || len(f.Progs) != 1 || f.Progs[0].Type != elf.PT_LOAD {
		t.Fatalf("%+v: expected a static program for the guest's processor with one segment", f)
	}
	load := f.Progs[0]
	if load.Filesz != uint64(len(program)) || load.Memsz != load.Filesz || load.Filesz <= fewest*page {
		t.Errorf("segment of %d bytes, %d in a file of %d: expected it all in the file, of more than %d pages", load.Memsz, load.Filesz, len(program), fewest)
	}
	if at := f.Entry - load.Vaddr; at >= load.Filesz || !bytes.HasPrefix(program[at:], rehearsedCode) {
		t.Errorf("it begins at %#x, which is not its code", f.Entry)
	}
	// From where to where it touches itself, and in what steps: operands of the code.
	operand := func(instruction string) uint64 {
		at := bytes.Index(rehearsedCode, []byte(instruction))
		if at < 0 {
			t.Fatalf("no instruction % x", instruction)
		}
		return uint64(binary.LittleEndian.Uint32(rehearsedCode[at+len(instruction):]))
	}
	from, to, step := operand("\xbf"), operand("\x81\xff"), operand("\x81\xc7")
	if from != load.Vaddr || to != load.Vaddr+load.Memsz || step > fewest*page {
		t.Errorf("it touches %#x to %#x by %#x: expected all of %#x to %#x, by %d pages at most", from, to, step, load.Vaddr, load.Vaddr+load.Memsz, fewest)
	}
}
