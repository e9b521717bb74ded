// Benchimages measures how images are pulled, unpacked and removed: vc-runtime
// beside containerd, podman, and skopeo with umoci, from Debian's
// docker-registry on loopback. The runs are interleaved, so that a noisy machine
// is noisy for all of them; read the ratios.
//
//	hack/bench-images [-n 3] [-size 1] [-tools vc-runtime,containerd] [-budget 15m]
//
// It prints a table in Markdown for each image: medians, with the least and the most. A last one says which of the
// goals are met: no more time than containerd, at most 0.6 times its CPU time, removal
// in a second, 200 MB of memory. With a budget it begins no
// round that would not end in time, if it took as long as the last one. Needs root.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	n := flag.Int("n", 3, "rounds")
	size := flag.Int("size", 1, "how large the images are: 1 is quick, 20 about a gigabyte each")
	budget := flag.Duration("budget", 0, "for all rounds together; 0 for as long as they take")
	only := flag.String("tools", "", "names of those to run, separated by commas; all if empty")
	runtime := flag.String("vc-runtime", "bin/vc-runtime", "path of vc-runtime")
	flag.Parse()
	if err := bench(*n, *size, *budget, *only, *runtime); err != nil {
		fmt.Fprintln(os.Stderr, "bench-images:", err)
		os.Exit(1)
	}
}

const registryAddr = "127.0.0.1:5817"

func bench(n, size int, budget time.Duration, only, runtime string) (err error) {
	dir, err := os.MkdirTemp("/var/tmp", "bench-images-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	stop, err := startRegistry(dir)
	if err != nil {
		return err
	}
	defer stop()
	images := generate(size)
	for _, img := range images {
		if err := img.push(dir); err != nil {
			return fmt.Errorf("image %s: %w", img.name, err)
		}
	}
	tools, stopTools, err := newTools(dir, runtime)
	if err != nil {
		return err
	}
	defer stopTools()
	if tools, err = chosen(tools, only); err != nil {
		return err
	}
	results := map[string][]result{} // by image and tool
	begun := time.Now()
	var last time.Duration // that a round took
	if err := ownPeak(); err != nil {
		return err
	}
	for round := range n {
		if budget > 0 && time.Since(begun)+last > budget {
			fmt.Fprintf(os.Stderr, "%d of %d rounds: another one does not fit into %v\n", round, n, budget)
			break
		}
		at := time.Now()
		for _, img := range images {
			for _, t := range tools {
				r, err := measure(t, img.name)
				if err != nil {
					return fmt.Errorf("%s: image %s: %w", t.name, img.name, err)
				}
				results[img.name+" "+t.name] = append(results[img.name+" "+t.name], r)
				fmt.Fprintf(os.Stderr, "round %d: %s: %s: pull %.2f s, CPU %.2f s, removal %.2f s\n", round+1, img.name, t.name, r.wall, r.cpu, r.remove)
			}
		}
		last = time.Since(at)
	}
	rounds := len(results[images[0].name+" "+tools[0].name])
	fmt.Printf("<!-- bench: images -->\n\nMedians of %d interleaved rounds, `-size %d`.\n", rounds, size)
	for _, img := range images {
		fmt.Printf("\n%s: %s\n\n| | wall s | CPU s | written MB | peak memory MB | removal s |\n|---|---|---|---|---|---|\n", img.name, img.what)
		for _, t := range tools {
			if rs := results[img.name+" "+t.name]; len(rs) > 0 {
				fmt.Printf("| %s | %s |\n", t.name, spreads(rs))
			}
		}
	}
	fmt.Printf("\nGoals of vc-runtime:\n\n| image | | is | at most | |\n|---|---|---|---|---|\n")
	missed := 0
	for _, img := range images {
		missed += printGoals(os.Stdout, img.name, goalsOf(results[img.name+" vc-runtime"], results[img.name+" containerd"]))
	}
	fmt.Printf("\n%d goals missed.\n\n<!-- end -->\n\n", missed)
	return nil
}

// chosen are the tools of the given names, in their own order.
func chosen(tools []*tool, names string) ([]*tool, error) {
	if names == "" {
		return tools, nil
	}
	var have []string
	var list []*tool
	wanted := strings.Split(names, ",")
	for _, t := range tools {
		have = append(have, t.name)
		if slices.Contains(wanted, t.name) {
			list = append(list, t)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(have, name) {
			return nil, fmt.Errorf("-tools: %q: expected some of %s", name, strings.Join(have, ", "))
		}
	}
	return list, nil
}

// startRegistry starts Debian's docker-registry.
func startRegistry(dir string) (stop func(), err error) {
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %s/registry}}\nhttp: {addr: %q}\n", dir, registryAddr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return daemon("listening on", "docker-registry", "serve", config)
}

// daemon starts a program, and waits until it says that it is ready.
func daemon(ready, name string, args ...string) (stop func(), err error) {
	p, err := startDaemon(ready, name, args...)
	if err != nil {
		return nil, err
	}
	return func() {
		p.Signal(unix.SIGTERM)
		p.Wait()
	}, nil
}

func startDaemon(ready, name string, args ...string) (*os.Process, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	log, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var said strings.Builder
	for lines := bufio.NewScanner(log); lines.Scan(); {
		fmt.Fprintln(&said, lines.Text())
		if strings.Contains(lines.Text(), ready) {
			go io.Copy(io.Discard, log) // ends with the process
			return cmd.Process, nil
		}
	}
	return nil, fmt.Errorf("%s has ended: %w: %s", name, cmd.Wait(), said.String())
}

// result is one pull and one removal.
type result struct {
	wall, cpu, remove float64 // seconds
	written, memory   float64 // MB
}

// measure pulls an image, which the tool does not have, and removes it.
func measure(t *tool, image string) (result, error) {
	unix.Sync() // what others have written is not to be waited for
	before, err := t.usage()
	if err != nil {
		return result{}, err
	}
	begin := time.Now()
	r, err := t.run(t.pull, image)
	if err != nil {
		return result{}, err
	}
	r.wall = time.Since(begin).Seconds()
	after, err := t.usage()
	if err != nil {
		return result{}, err
	}
	r.cpu += after.cpu - before.cpu
	r.written += after.written - before.written
	r.memory = max(r.memory, after.memory)
	begin = time.Now()
	if _, err := t.run(t.remove, image); err != nil {
		return result{}, err
	}
	r.remove = time.Since(begin).Seconds()
	return r, nil
}

// spreads are the cells of a row: medians, with the least and the most.
func spreads(rs []result) string {
	var cells []string
	for _, column := range []struct {
		format string
		of     func(result) float64
	}{
		{"%.2f (%.2f–%.2f)", func(r result) float64 { return r.wall }},
		{"%.2f (%.2f–%.2f)", func(r result) float64 { return r.cpu }},
		{"%.0f (%.0f–%.0f)", func(r result) float64 { return r.written }},
		{"%.0f (%.0f–%.0f)", func(r result) float64 { return r.memory }},
		{"%.2f (%.2f–%.2f)", func(r result) float64 { return r.remove }},
	} {
		all := each(rs, column.of)
		cells = append(cells, fmt.Sprintf(column.format, median(all), slices.Min(all), slices.Max(all)))
	}
	return strings.Join(cells, " | ")
}

func each(rs []result, of func(result) float64) []float64 {
	var all []float64
	for _, r := range rs {
		all = append(all, of(r))
	}
	return all
}
