// Bench measures OCI runtimes side by side, the way conmon drives them: as a
// child subreaper, `create --pid-file`, `start`, wait for the pid, `delete`.
// The runs of the runtimes are interleaved, so that a noisy machine is noisy
// for all of them.
//
//	go run ./tests/bench -n 10 -rt crun -rt runc -rt "bin/vc-runtime --config F"
//
// It prints a table in Markdown: medians in milliseconds, and with -mem the
// memory of a sleeping container's processes. Needs root and busybox.
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

type runtimes []string

func (r *runtimes) String() string     { return strings.Join(*r, ", ") }
func (r *runtimes) Set(s string) error { *r = append(*r, s); return nil }

func main() {
	var rts runtimes
	flag.Var(&rts, "rt", "a runtime with its global flags; may be given several times")
	n := flag.Int("n", 10, "runs of each runtime")
	mem := flag.Bool("mem", false, "measure the memory of a sleeping container as well")
	settle := flag.Duration("settle", 3*time.Second, "how long the container sleeps before its memory is measured")
	flag.Parse()
	if err := bench(rts, *n, *mem, *settle); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// phases of one run, in the order of the columns.
var phases = []string{"create", "start", "wait", "delete", "total"}

func bench(rts runtimes, n int, mem bool, settle time.Duration) error {
	if len(rts) == 0 {
		return errors.New("no runtime: say -rt")
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become a subreaper: %w", err)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	quick, err := makeBundle(filepath.Join(dir, "true"), "/bin/true")
	if err != nil {
		return err
	}
	asleep, err := makeBundle(filepath.Join(dir, "sleep"), "/bin/sleep", "1000")
	if err != nil {
		return err
	}
	reap := newReaper()
	times := make(map[string]map[string][]float64)
	for _, rt := range rts {
		times[rt] = make(map[string][]float64)
	}
	for i := range n + 1 {
		for _, rt := range rts {
			d, err := newDriver(reap, rt, dir, fmt.Sprintf("bench-%d-%d", os.Getpid(), i))
			if err != nil {
				return err
			}
			got, err := d.cycle(quick)
			if err != nil {
				return fmt.Errorf("%s: %w", rt, err)
			}
			if i == 0 {
				continue // the first run fills caches
			}
			for phase, ms := range got {
				times[rt][phase] = append(times[rt][phase], ms)
			}
		}
	}
	fmt.Printf("create, start, wait, delete of `true`, medians of %d interleaved runs, ms:\n\n", n)
	fmt.Printf("| runtime | %s | min–max |\n|---|%s---|\n", strings.Join(phases, " | "), strings.Repeat("---|", len(phases)))
	for _, rt := range rts {
		fmt.Printf("| %s |", filepath.Base(strings.Fields(rt)[0]))
		for _, phase := range phases {
			fmt.Printf(" %.0f |", median(times[rt][phase]))
		}
		total := times[rt]["total"]
		fmt.Printf(" %.0f–%.0f |\n", slices.Min(total), slices.Max(total))
	}
	if !mem {
		return nil
	}
	fmt.Printf("\nMemory of a sleeping container after %s, kB:\n\n| runtime | process | RSS | PSS |\n|---|---|---|---|\n", settle)
	for _, rt := range rts {
		d, err := newDriver(reap, rt, dir, fmt.Sprintf("bench-%d-mem", os.Getpid()))
		if err != nil {
			return err
		}
		if err := d.memory(asleep, settle); err != nil {
			return fmt.Errorf("%s: %w", rt, err)
		}
	}
	return nil
}

func median(x []float64) float64 {
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
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
