package main

import (
	"fmt"
	"os"
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
	b.compare("ops", times)
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

// manyRuns is how often many does each number: the larger ones take long.
const manyRuns = 3

// many runs the whole life of containers at once, for several numbers of them.
func (b *bench) many() error {
	rts := b.withoutSpares()
	got := make(map[string][][]float64) // by runtime, in the order of counts
	for i, n := range b.counts {
		for range manyRuns {
			for _, rt := range rts {
				ms, err := b.together(rt, n)
				if err != nil {
					return fmt.Errorf("%d of %s: %w", n, rt, err)
				}
				if len(got[rt]) == i {
					got[rt] = append(got[rt], nil)
				}
				got[rt][i] = append(got[rt][i], ms/float64(n))
			}
		}
	}
	fmt.Printf("create, start, wait, delete of `true`, several at once, ms for each of them, medians of %d interleaved runs:\n\n| runtime |", manyRuns)
	for _, n := range b.counts {
		fmt.Printf(" %d |", n)
	}
	fmt.Printf("\n|---|%s\n", strings.Repeat("---|", len(b.counts)))
	for _, rt := range rts {
		fmt.Printf("| %s |", title(rt))
		for i := range b.counts {
			fmt.Printf(" %s |", spread(got[rt][i]))
		}
		fmt.Println()
		b.manyGoal(rt, median(got[rt][0]), median(got[rt][len(b.counts)-1]))
	}
	return b.plotMany(rts, got)
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
