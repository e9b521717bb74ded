// Bench measures OCI runtimes side by side, the way conmon drives them: as a
// child subreaper, `create --pid-file`, `start`, wait for the pid, `delete`.
// The runs of the runtimes are interleaved, so that a noisy machine is noisy
// for all of them, and the first round, which fills caches, is left out.
//
//	go run ./tests/bench -n 10 -rt crun -rt runc -rt "bin/vc-runtime --config F"
//
// It prints tables in Markdown: medians with the least and the most in
// parentheses, in milliseconds; and writes plots with -svg. Each part stands
// between marks, by which hack/bench-report finds it. Needs root and busybox.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, ", ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// bench is what is to be measured, and with what.
type bench struct {
	rts    list
	n      int           // runs of each runtime
	settle time.Duration // before memory, or an exec, is measured
	svg    string        // folder for plots; "" for none
	counts []int         // of containers at once
	images list          // guest images to boot
	spares list          // those of rts that have spare machines
	goals  []goal        // that were measured, and what has become of them

	*reaper
	dir   string // scratch
	quick string // bundle of true
	sleep string // bundle of sleep
}

// parts are the measurements that can be asked for, in their order.
var parts = []struct {
	name string
	run  func(*bench) error
}{
	{"machine", (*bench).machine}, {"cycle", (*bench).cycles}, {"ops", (*bench).operations}, {"many", (*bench).many},
	{"memory", (*bench).memory}, {"boot", (*bench).boots}, {"blocks", (*bench).blocks}, {"exec", (*bench).execs}, {"timeline", (*bench).timeline},
	{"goals", (*bench).printGoals},
}

func main() {
	b := &bench{counts: []int{1, 5, 10, 20}}
	flag.Var(&b.rts, "rt", "a runtime with its global flags; may be given several times")
	flag.IntVar(&b.n, "n", 10, "runs of each runtime")
	flag.DurationVar(&b.settle, "settle", 5*time.Second, "how long containers sleep before their memory, or an exec, is measured")
	flag.StringVar(&b.svg, "svg", "", "folder to write plots into")
	flag.Var(&b.spares, "spares", "that runtime, of -rt, has spare machines made before each cycle and before each container for ops; may be given several times")
	flag.Var(&b.images, "image", "folder of a guest image to boot; may be given several times")
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	all := strings.Join(names, ",")
	what := flag.String("what", all, "what to measure, of "+all)
	limit := flag.Duration("limit", time.Hour, "for all of it")
	flag.Parse()
	time.AfterFunc(*limit, func() {
		fmt.Fprintf(os.Stderr, "bench: not done after %v (-limit)\n", *limit)
		os.Exit(1)
	})
	if err := b.run(strings.Split(*what, ",")); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(what []string) error {
	if len(b.rts) == 0 {
		return errors.New("no runtime: say -rt")
	}
	if b.n < 1 {
		return fmt.Errorf("-n %d: expected at least 1", b.n)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	var err error
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.quick, err = makeBundle(filepath.Join(b.dir, "true"), "/bin/true"); err != nil {
		return err
	}
	if b.sleep, err = makeBundle(filepath.Join(b.dir, "sleep"), "/bin/sleep", "1000"); err != nil {
		return err
	}
	b.reaper = newReaper()
	for _, name := range what {
		known := false
		for _, p := range parts {
			if p.name != name {
				continue
			}
			known = true
			if err := b.drain(); err != nil {
				return err
			}
			fmt.Printf("<!-- bench: %s -->\n\n", name)
			if err := p.run(b); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			fmt.Printf("\n<!-- end -->\n\n")
		}
		if !known {
			return fmt.Errorf("-what %q: unknown", name)
		}
	}
	return nil
}

// driver drives one container of a runtime.
func (b *bench) driver(rt, id string) (*driver, error) {
	return newDriver(b.reaper, rt, b.dir, fmt.Sprintf("bench-%d-%s", os.Getpid(), id))
}

// phases of one run, in the order of the columns.
var phases = []string{"create", "start", "wait", "delete", "total"}

// cycles measures the life of a container that runs true.
func (b *bench) cycles() error {
	times, err := b.sample(func(d *driver) (map[string]float64, error) {
		if err := b.fill(d); err != nil {
			return nil, err
		}
		return d.cycle(b.quick)
	})
	if err != nil {
		return err
	}
	fmt.Printf("create, start, wait, delete of `true`, and CPU time of the container's cgroup, %d interleaved runs, ms:\n\n", b.n)
	b.table(append(phases[:len(phases):len(phases)], "CPU time"), times)
	b.compare("cycle", times)
	return b.plotPhases(times)
}

// fill makes the spare machines of a runtime that has some.
func (b *bench) fill(d *driver) error {
	if !slices.Contains(b.spares, strings.Join(d.rt, " ")) {
		return nil
	}
	return d.run("spare", "create")
}

// drain ends the spare machines that a part has left, or has others make, so that
// the next one neither counts them nor shares the processors with them.
func (b *bench) drain() error {
	for _, rt := range b.spares {
		d, err := b.driver(rt, "drain")
		if err == nil {
			err = d.run("spare", "rm")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// samples are measurements by runtime and column.
type samples map[string]map[string][]float64

// sample runs something n times for each runtime, in turns.
func (b *bench) sample(run func(*driver) (map[string]float64, error)) (samples, error) {
	got := make(samples)
	for _, rt := range b.rts {
		got[rt] = make(map[string][]float64)
	}
	for i := range b.n + 1 {
		for _, rt := range b.rts {
			d, err := b.driver(rt, fmt.Sprint(i))
			if err != nil {
				return nil, err
			}
			values, err := run(d)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rt, err)
			}
			if err := b.fill(d); err != nil { // the next one is not to share the processors with a spare that starts
				return nil, err
			}
			if i == 0 {
				continue // the first run fills caches
			}
			for column, ms := range values {
				got[rt][column] = append(got[rt][column], ms)
			}
		}
	}
	return got, nil
}

// table prints medians and spreads.
func (b *bench) table(columns []string, values samples) {
	fmt.Printf("| runtime | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, rt := range b.rts {
		fmt.Printf("| %s |", title(rt))
		for _, column := range columns {
			fmt.Printf(" %s |", spread(values[rt][column]))
		}
		fmt.Println()
	}
}

// title is what a runtime is called in tables and plots.
func title(rt string) string { return filepath.Base(strings.Fields(rt)[0]) }

func median(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// spread is a median with the least and the most.
func spread(x []float64) string {
	return fmt.Sprintf("%.0f (%.0f–%.0f)", median(x), slices.Min(x), slices.Max(x))
}

// withoutSpares are the runtimes that have no spare machines: many at once, and
// memory, are not compared with those that have, since the next spare is made
// meanwhile.
func (b *bench) withoutSpares() []string {
	return slices.DeleteFunc(slices.Clone(b.rts), func(rt string) bool { return slices.Contains(b.spares, rt) })
}

// makeBundle makes a bundle with busybox in it that runs args.
func makeBundle(dir string, args ...string) (string, error) {
	bin := filepath.Join(dir, "rootfs/bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"busybox", "true", "sleep", "sh"} {
		if err := os.WriteFile(filepath.Join(bin, name), data, 0o755); err != nil {
			return "", err
		}
	}
	cmd := exec.Command("runc", "spec", "--bundle", dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("runc spec: %w: %s", err, out)
	}
	path := filepath.Join(dir, "config.json")
	raw, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	var spec map[string]any
	if err := json.Unmarshal(raw, &spec); err != nil {
		return "", err
	}
	process := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, args
	if raw, err = json.Marshal(spec); err != nil {
		return "", err
	}
	return dir, os.WriteFile(path, raw, 0o644)
}
