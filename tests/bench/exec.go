package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vc-runtime/vc-runtime/trace"
)

// settleExec is how long what an exec has left to do may take, before its CPU
// time is read.
const settleExec = 300 * time.Millisecond

// execs measures where the time of an exec of `true` goes: the CPU time of each
// process, and the blocks of guest code that are translated for it.
func (b *bench) execs() error {
	for _, rt := range b.rts {
		if title(rt) != "vc-runtime" {
			continue
		}
		if err := b.execTimes(rt); err != nil {
			return err
		}
		if len(b.images) > 0 {
			return b.execBlocks(strings.Fields(rt)[0], b.images[0])
		}
	}
	return nil
}

// sleeper gives a driver whose container sleeps, and what ends it.
func (b *bench) sleeper(rt, id string) (*driver, func() error, error) {
	d, err := b.driver(rt, id)
	if err != nil {
		return nil, nil, err
	}
	end := func() error { return d.run("delete", "--force", d.id) }
	if _, err = d.create(b.sleep); err == nil {
		err = d.run("start", d.id)
	}
	if err != nil {
		return nil, nil, errors.Join(err, end())
	}
	time.Sleep(b.settle) // what a start has left to do
	return d, end, nil
}

// execTimes prints the CPU time that an exec takes of each process.
func (b *bench) execTimes(rt string) (err error) {
	d, end, err := b.sleeper(rt, "exec")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	first, later := map[string]float64{}, map[string][]float64{}
	for i := range b.n + 1 {
		before, command := processorTimes(), childrenTime()
		if err := d.run("exec", d.id, "/bin/true"); err != nil {
			return err
		}
		command = childrenTime() - command
		time.Sleep(settleExec)
		spent := map[string]float64{"exec": command, "all": command}
		for name, ms := range processorTimes() {
			spent[name] = ms - before[name]
			spent["all"] += spent[name]
		}
		for name, ms := range spent {
			if i == 0 {
				first[name] = ms
			} else {
				later[name] = append(later[name], ms)
			}
		}
	}
	fmt.Printf("CPU time of an exec of `true`, ms, and of %d later ones in the same container:\n\n| process | first | later |\n|---|---|---|\n", b.n)
	for _, name := range []string{"exec", "monitor", "shim", "virtiofsd", "qemu", "all"} {
		x := later[name]
		fmt.Printf("| %s | %.1f | %.1f (%.1f–%.1f) |\n", name, first[name], median(x), slices.Min(x), slices.Max(x))
	}
	fmt.Println()
	return nil
}

// execTimeline traces an exec in a container that has had one.
func (b *bench) execTimeline(rt string) (err error) {
	d, end, err := b.sleeper(rt, "exec-timeline")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	if err := d.run("exec", d.id, "/bin/true"); err != nil {
		return err
	}
	path := filepath.Join(b.dir, "exec.json")
	traced := *d
	traced.rt = append(d.rt[:len(d.rt):len(d.rt)], "--trace", path)
	if err := traced.run("exec", d.id, "/bin/true"); err != nil {
		return err
	}
	events, err := trace.Read(path)
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := trace.Summary(&text, ofCommand(events, "exec")); err != nil {
		return err
	}
	fmt.Printf("\nAn exec of `true`, traced:\n\n```\n%s```\n", text.String())
	return nil
}

// ofCommand leaves out what was before a command.
func ofCommand(events []trace.Event, name string) []trace.Event {
	for i, e := range events {
		if e.Kind == trace.Command && e.Name == name {
			return slices.DeleteFunc(slices.Clone(events), func(o trace.Event) bool { return o.Type == "X" && o.Time < events[i].Time })
		}
	}
	return events
}

// execBlocks counts the blocks of guest code that are translated for an exec.
func (b *bench) execBlocks(rt, image string) error {
	fmt.Printf("Blocks of guest code translated for an exec of `true`, by whose code it is; the later ones are medians of %d:\n\n"+
		"| share.cache | exec | kernel | modules | programs | all |\n|---|---|---|---|---|---|\n", b.n)
	for _, cache := range []string{"auto", "always"} {
		dir, err := os.MkdirTemp(b.dir, "exec")
		if err != nil {
			return err
		}
		config, err := loggingConfig(image, dir, 0)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(f, "[share]\ncache = %q\n", cache)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		got, err := b.countExecs(fmt.Sprintf("%s --root %s --config %s", rt, filepath.Join(dir, "run"), config), dir, "exec-"+cache)
		if err != nil {
			return err
		}
		for i, name := range []string{"first", "later"} {
			fmt.Printf("| %s | %s |", cache, name)
			for _, column := range []string{"kernel", "modules", "programs", "all"} {
				if i == 0 {
					fmt.Printf(" %.0f |", got[column][0])
				} else {
					fmt.Printf(" %s |", spread(got[column][1:]))
				}
			}
			fmt.Println()
		}
	}
	return nil
}

// countExecs counts what is translated for each of several execs, by whose code
// it is.
func (b *bench) countExecs(rt, dir, id string) (got map[string][]float64, err error) {
	d, err := b.driver(rt, id)
	if err == nil {
		err = d.run("template", "create")
	}
	if err == nil {
		err = removeLogs(dir) // of the one that has tried the template
	}
	if err != nil {
		return nil, err
	}
	d, end, err := b.sleeper(rt, id)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, end()) }()
	log, _, err := onlyLog(dir)
	if err != nil {
		return nil, err
	}
	got = make(map[string][]float64)
	before, err := readBlocks(log, 0)
	for range b.n + 1 {
		if err == nil {
			err = d.run("exec", d.id, "/bin/true")
		}
		if err != nil {
			return nil, err
		}
		time.Sleep(settleExec)
		var after map[string]int
		if after, err = readBlocks(log, 0); err != nil {
			return nil, err
		}
		for _, column := range []string{"kernel", "modules", "programs", "all"} {
			got[column] = append(got[column], float64(after[column]-before[column]))
		}
		before = after
	}
	return got, nil
}

// processorTimes are the CPU times so far, in ms, of the processes that stay, by
// what they are (schedstat of proc(5): nanoseconds, of each thread).
func processorTimes() map[string]float64 {
	got := make(map[string]float64)
	for _, pid := range descendants(os.Getpid()) {
		name := strings.TrimPrefix(processName(pid), "vc-runtime ")
		if strings.HasPrefix(name, "qemu") {
			name = "qemu"
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // it may have just ended
		for _, path := range tasks {
			b, _ := os.ReadFile(path)
			text, _, _ := strings.Cut(string(b), " ")
			ns, _ := strconv.ParseFloat(text, 64)
			got[name] += ns / 1e6
		}
	}
	return got
}

// childrenTime is the CPU time of the processes that were waited for, in ms.
func childrenTime() float64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e6
}
