package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// lap is the time since begin in ms.
func lap(begin time.Time) float64 { return float64(time.Since(begin).Microseconds()) / 1000 }

// opColumns are what operations measures.
var opColumns = []string{"--version", "state", "exec", "kill KILL"}

// operations measures commands on a container that sleeps, and KILL until its
// rootfs is released: its pid is gone.
func (b *bench) operations() error {
	times, err := b.sample(func(d *driver) (map[string]float64, error) {
		if err := b.fill(d); err != nil {
			return nil, err
		}
		return d.operations(b.sleep)
	})
	if err != nil {
		return err
	}
	fmt.Printf("Commands on a sleeping container, %d interleaved runs, ms; kill until the pid is gone:\n\n", b.n)
	b.table(opColumns, times)
	return nil
}

func (d *driver) operations(bundle string) (map[string]float64, error) {
	got := make(map[string]float64)
	begin := time.Now()
	if err := d.run("--version"); err != nil {
		return nil, err
	}
	got["--version"] = lap(begin)
	pid, err := d.create(bundle)
	if err != nil {
		return nil, err
	}
	defer d.run("delete", "--force", d.id)
	if err := d.run("start", d.id); err != nil {
		return nil, err
	}
	for _, op := range []struct {
		column string
		args   []string
	}{{"state", []string{"state", d.id}}, {"exec", []string{"exec", d.id, "/bin/true"}}} {
		begin := time.Now()
		if err := d.run(op.args...); err != nil {
			return nil, err
		}
		got[op.column] = lap(begin)
	}
	begin = time.Now()
	if err := d.run("kill", d.id, "KILL"); err != nil {
		return nil, err
	}
	d.wait(pid)
	got["kill KILL"] = lap(begin)
	return got, d.delete()
}

// many runs the whole life of containers at once, for several numbers of them.
func (b *bench) many() error {
	total := make(map[string][]float64) // by runtime, in the order of counts
	for _, n := range b.counts {
		for _, rt := range b.rts {
			ms, err := b.together(rt, n)
			if err != nil {
				return fmt.Errorf("%d of %s: %w", n, rt, err)
			}
			total[rt] = append(total[rt], ms)
		}
	}
	fmt.Printf("create, start, wait, delete of `true`, several at once, ms; for each of them in parentheses:\n\n| runtime |")
	for _, n := range b.counts {
		fmt.Printf(" %d |", n)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(b.counts)))
	for _, rt := range b.rts {
		fmt.Printf("| %s |", title(rt))
		for i, n := range b.counts {
			fmt.Printf(" %.0f (%.0f) |", total[rt][i], total[rt][i]/float64(n))
		}
		fmt.Println()
	}
	return b.plotMany(total)
}

// together gives the time from the first create to the last delete.
func (b *bench) together(rt string, n int) (float64, error) {
	var all sync.WaitGroup
	errs := make(chan error, n)
	begin := time.Now()
	for i := range n {
		d, err := b.driver(rt, fmt.Sprintf("many-%02d-%02d", n, i))
		if err != nil {
			return 0, err
		}
		// Files of its own: they are at it at the same time.
		if d.dir, err = os.MkdirTemp(b.dir, "many"); err != nil {
			return 0, err
		}
		all.Go(func() {
			if _, err := d.cycle(b.quick); err != nil {
				errs <- err
			}
		})
	}
	all.Wait()
	ms := lap(begin)
	select {
	case err := <-errs:
		return 0, err
	default:
		return ms, nil
	}
}

// sleepers is how many containers memory starts.
const sleepers = 4

// memory measures what the processes of sleeping containers take: of the last of
// several, one by one, and what each further one adds to all.
func (b *bench) memory() error {
	fmt.Printf("Memory of one of %d sleeping containers after %s, kB. PSS divides what is shared by those who share it; private is nobody else's. "+
		"VM is the guest's memory on the host, mapped or not.\n\n| runtime | process | RSS | PSS | private | VM |\n|---|---|---|---|---|---|\n", sleepers, b.settle)
	for _, rt := range b.rts {
		if err := b.memoryOf(rt); err != nil {
			return fmt.Errorf("%s: %w", rt, err)
		}
	}
	return nil
}

func (b *bench) memoryOf(rt string) error {
	var first, last footprint
	var before map[int]bool
	for i := range sleepers {
		before = make(map[int]bool)
		for _, pid := range descendants(os.Getpid()) {
			before[pid] = true
		}
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
		last = footprint{}
		for _, pid := range descendants(os.Getpid()) {
			last.add(footprintOf(pid))
		}
		if i == 0 {
			first = last
		}
	}
	name := title(rt)
	var own footprint
	for _, pid := range descendants(os.Getpid()) {
		if before[pid] {
			continue
		}
		f := footprintOf(pid)
		own.add(f)
		fmt.Printf("| %s | %s | %d | %d | %d | %d |\n", name, f.name, f.rss, f.pss, f.private, f.vm)
	}
	fmt.Printf("| %s | **all of it** | %d | %d | %d | %d |\n", name, own.rss, own.pss, own.private, own.vm)
	fmt.Printf("| %s | **each further one adds** | | %d | | |\n", name, (last.pss-first.pss)/(sleepers-1))
	return nil
}

// footprint is what processes take, in kB (proc(5), smaps_rollup).
type footprint struct {
	name                  string
	rss, pss, private, vm int
}

func (f *footprint) add(o footprint) {
	f.rss, f.pss, f.private, f.vm = f.rss+o.rss, f.pss+o.pss, f.private+o.private, f.vm+o.vm
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
