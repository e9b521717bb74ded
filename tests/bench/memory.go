package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// sleepers is how many containers memory starts.
const sleepers = 4

// memory measures what the processes of sleeping containers take, by process and,
// of virtual machines, by mapping, and what each further container adds to all.
func (b *bench) memory() error {
	fmt.Printf("Memory of %d sleeping containers, all there, %s after the last one's start: medians of the containers, kB. PSS divides what is shared by those who share it; "+
		"private is nobody else's. VM is the guest's memory on the host, mapped or not.\n\n| runtime | process | RSS | PSS | private | VM |\n|---|---|---|---|---|---|\n", sleepers, b.settle)
	maps := newTally()
	for _, rt := range b.withoutSpares() {
		if err := b.memoryOf(rt, maps); err != nil {
			return fmt.Errorf("%s: %w", rt, err)
		}
	}
	if len(maps.names) > 0 {
		fmt.Printf("\nWhere the PSS of their QEMU is, kB:\n\n| mappings | PSS |\n|---|---|\n")
		for _, name := range maps.names {
			fmt.Printf("| %s | %s |\n", name, maps.row(name))
		}
	}
	return nil
}

// memoryOf is memory for one runtime. It adds the mappings of each virtual machine
// to maps.
func (b *bench) memoryOf(rt string, maps *tally) error {
	known := make(map[int]bool)
	var own [sleepers][]int // the processes of each container
	var further []float64   // PSS that each has added
	last := 0
	for i := range sleepers {
		d, err := b.driver(rt, fmt.Sprintf("sleep-%d", i))
		if err != nil {
			return err
		}
		if _, err := d.create(b.sleep); err != nil {
			return err
		}
		defer d.run("delete", "--force", d.id)
		if err := d.run("start", d.id); err != nil {
			return err
		}
		time.Sleep(b.settle)
		sum := 0
		for _, pid := range descendants(os.Getpid()) {
			if !known[pid] {
				known[pid] = true
				own[i] = append(own[i], pid)
			}
			sum += footprintOf(pid).pss
		}
		if i > 0 {
			further = append(further, float64(sum-last))
		}
		last = sum
	}
	sizes := newTally()
	for _, pids := range own {
		of := make(map[string]footprint) // of this container, by what the process is
		var names []string
		for _, pid := range pids {
			f := footprintOf(pid)
			if _, ok := of[f.name]; !ok {
				names = append(names, f.name)
			}
			of[f.name] = of[f.name].and(f)
			of[allOfIt] = of[allOfIt].and(f)
			if f.vm > 0 {
				addMappings(maps, pid)
			}
		}
		for _, name := range append(names, allOfIt) {
			sizes.add(name, of[name].rss, of[name].pss, of[name].private, of[name].vm)
		}
	}
	for _, name := range sizes.names {
		fmt.Printf("| %s | %s | %s |\n", title(rt), name, sizes.row(name))
	}
	fmt.Printf("| %s | **each further one adds** | | %s | | |\n", title(rt), spread(further))
	b.memoryGoal(rt, median(further))
	return nil
}

const allOfIt = "**all of it**"

// tally collects rows of numbers by name, and knows the order in which the names
// came.
type tally struct {
	names   []string
	columns map[string][][]float64
}

func newTally() *tally { return &tally{columns: make(map[string][][]float64)} }

func (t *tally) add(name string, values ...int) {
	if t.columns[name] == nil {
		t.names = append(t.names, name)
		t.columns[name] = make([][]float64, len(values))
	}
	for i, v := range values {
		t.columns[name][i] = append(t.columns[name][i], float64(v))
	}
}

// row is the cells of a row.
func (t *tally) row(name string) string {
	var cells []string
	for _, values := range t.columns[name] {
		cells = append(cells, spread(values))
	}
	return strings.Join(cells, " | ")
}

// addMappings adds the PSS of a QEMU in kB, by what is mapped (proc(5), smaps).
func addMappings(t *tally, pid int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid)) // it may have just ended
	sum := make(map[string]int)
	var of string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		switch {
		case !strings.HasSuffix(f[0], ":"):
			of = mappingKind(f)
		case f[0] == "Pss:":
			kb, _ := strconv.Atoi(f[1])
			sum[of] += kb
		}
	}
	for _, name := range []string{guestMapping, codeMapping, heapMapping, fileMapping} {
		t.add(name, sum[name])
	}
}

// What QEMU has mapped. Guest memory is what a clone has touched since its start; the
// code cache is translations of guest code, which only emulation has.
const (
	guestMapping = "guest memory"
	codeMapping  = "code cache"
	heapMapping  = "heap and other anonymous memory"
	fileMapping  = "programs and libraries"
)

// mappingKind tells from the fields of a mapping's line in smaps: addresses,
// permissions, offset, device, inode, and a path where there is one.
func mappingKind(f []string) string {
	switch {
	case len(f) > 5 && strings.HasPrefix(f[5], "/memfd:"):
		return guestMapping
	case len(f) > 5 && strings.HasPrefix(f[5], "/"):
		return fileMapping
	case len(f) == 5 && strings.Contains(f[1], "x"):
		return codeMapping
	}
	return heapMapping
}

// footprint is what processes take, in kB (proc(5), smaps_rollup).
type footprint struct {
	name                  string
	rss, pss, private, vm int
}

// and is the sum of two.
func (f footprint) and(o footprint) footprint {
	return footprint{o.name, f.rss + o.rss, f.pss + o.pss, f.private + o.private, f.vm + o.vm}
}

// processName is the program's, and its sub-command's where it has one.
func processName(pid int) string {
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	argv := strings.Split(string(cmdline), "\x00")
	name := filepath.Base(argv[0])
	if len(argv) > 1 && !strings.HasPrefix(argv[1], "-") {
		name += " " + argv[1]
	}
	return name
}

func footprintOf(pid int) footprint {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid)) // it may have just ended
	f := footprint{name: processName(pid), vm: guestMemory(pid)}
	f.rss, f.pss = value(string(b), "Rss:"), value(string(b), "Pss:")
	f.private = value(string(b), "Private_Clean:") + value(string(b), "Private_Dirty:")
	return f
}
