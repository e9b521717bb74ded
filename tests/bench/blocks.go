package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// Where the guest's code lies (Documentation/arch/x86/x86_64/mm.rst of the
// kernel): its text, and behind it the modules. Programs are below.
const (
	kernelText  = 0xffffffff80000000
	kernelRoom  = 1 << 30
	blockRuns   = 3
	blockLog    = "in_asm."
	blockColumn = "| guest image | kernel | modules | programs | all | of them until create returns |"
)

// blocks counts the blocks of guest code that QEMU translates in the life of a
// container in a clone, and in a spare where those are wanted. Under emulation
// that is what most of a start's time goes to, and hardly depends on what else
// the machine does.
func (b *bench) blocks() error {
	if len(b.images) == 0 {
		return errors.New("no guest image: say -image")
	}
	var rt string
	for _, r := range b.rts {
		if title(r) == "vc-runtime" {
			rt = strings.Fields(r)[0]
		}
	}
	if rt == "" {
		return nil // only ours has a guest
	}
	fmt.Printf("Blocks of guest code translated for `true` in a clone, medians of %d runs, by whose code it is:\n\n%s\n|---|---|---|---|---|---|\n", blockRuns, blockColumn)
	for _, image := range b.images {
		for _, spares := range []int{0, 1} {
			if spares > 0 && len(b.spares) == 0 {
				continue
			}
			if err := b.blocksOf(rt, image, spares); err != nil {
				return err
			}
		}
	}
	return nil
}

// errNotTaken says that a create has started a machine although there was a spare.
var errNotTaken = errors.New("the create has not taken the spare")

// blocksOf is blocks for one guest image, with so many spares.
func (b *bench) blocksOf(rt, image string, spares int) error {
	dir, err := os.MkdirTemp(b.dir, "blocks")
	if err != nil {
		return err
	}
	config, err := loggingConfig(image, dir, spares)
	if err != nil {
		return err
	}
	flags := fmt.Sprintf("%s --root %s --config %s", rt, filepath.Join(dir, "run"), config)
	got := make(map[string][]float64)
	for i := 0; len(got["all"]) < blockRuns; i++ {
		d, err := b.driver(flags, fmt.Sprintf("blocks-%d", i))
		if err != nil {
			return err
		}
		if i == 0 {
			if err := d.run("template", "create"); err != nil {
				return err
			}
		}
		err = b.countBlocks(d, dir, spares > 0, got)
		if errors.Is(err, errNotTaken) && i < 2*blockRuns { // on a busy host; that is no figure of a spare's
			fmt.Fprintln(os.Stderr, "bench:", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	name := filepath.Base(image)
	if spares > 0 {
		name += ", a spare machine"
	}
	fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", name,
		spread(got["kernel"]), spread(got["modules"]), spread(got["programs"]), spread(got["all"]), spread(got["create"]))
	return nil
}

// loggingConfig makes a configuration in dir whose clones log what they
// translate, each in a file of its own. The next spare is not started while one is
// looked at.
func loggingConfig(image, dir string, spares int) (string, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", err
	}
	wrapper := filepath.Join(dir, "qemu")
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' -incoming '*) set -- \"$@\" -d in_asm -D %s ;; esac\nexec %s \"$@\"\n",
		filepath.Join(dir, blockLog+"%d"), qemu) // QEMU writes its pid
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return "", err
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("[hypervisor]\nqemu = %q\nguest_image = %q\ncache_dir = %q\nmemory = \"%dM\"\naccel = \"tcg\"\nspares = %d\nspare_delay = \"60s\"\n",
		wrapper, image, filepath.Join(dir, "cache"), bootMemory, spares)
	return config, os.WriteFile(config, []byte(text), 0o644)
}

// countBlocks drives one container and adds what was translated for it: by the
// machine that it started, or by the spare that it took from when it did.
func (b *bench) countBlocks(d *driver, dir string, spare bool, got map[string][]float64) error {
	if err := removeLogs(dir); err != nil {
		return err
	}
	var log string
	var before int64
	if spare {
		if err := d.run("spare", "create"); err != nil {
			return err
		}
		defer d.run("spare", "rm")
		var err error
		if log, before, err = onlyLog(dir); err != nil {
			return err
		}
	}
	pid, err := d.create(b.quick)
	if err != nil {
		return err
	}
	if only, _, logErr := onlyLog(dir); spare && logErr != nil {
		err = fmt.Errorf("%w: %w", errNotTaken, logErr)
	} else {
		log, err = only, logErr
	}
	var created map[string]int
	if err == nil {
		created, err = readBlocks(log, before)
	}
	if err == nil {
		err = d.run("start", d.id)
	}
	if err != nil {
		return errors.Join(err, d.run("delete", "--force", d.id))
	}
	d.wait(pid)
	if err := d.delete(); err != nil {
		return err
	}
	all, err := readBlocks(log, before)
	if err != nil {
		return err
	}
	for column, n := range all {
		got[column] = append(got[column], float64(n))
	}
	got["create"] = append(got["create"], float64(created["all"]))
	return nil
}

// removeLogs removes what QEMU has written in a folder.
func removeLogs(dir string) error {
	logs, err := filepath.Glob(filepath.Join(dir, blockLog+"*"))
	for _, log := range logs {
		err = errors.Join(err, os.Remove(log))
	}
	return err
}

// onlyLog gives the log of the one machine that there is, and its size.
func onlyLog(dir string) (path string, size int64, err error) {
	logs, err := filepath.Glob(filepath.Join(dir, blockLog+"*"))
	if err != nil {
		return "", 0, err
	}
	if len(logs) != 1 {
		return "", 0, fmt.Errorf("%q: expected the log of one QEMU", logs)
	}
	info, err := os.Stat(logs[0])
	if err != nil {
		return "", 0, err
	}
	return logs[0], info.Size(), nil
}

// readBlocks counts the blocks in a log of QEMU's (-d in_asm): of each the first
// instruction follows a line with IN. It begins at an offset.
func readBlocks(path string, from int64) (map[string]int, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return nil, err
	}
	n := map[string]int{"kernel": 0, "modules": 0, "programs": 0} // the trimmed kernel has no modules
	first := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		address, _, isCode := strings.Cut(lines.Text(), ":")
		switch {
		case address == "IN":
			first = true
		case first && isCode && strings.HasPrefix(address, "0x"):
			first = false
			at, err := strconv.ParseUint(address, 0, 64)
			if err != nil {
				continue // the log goes on
			}
			n[owner(at)]++
			n["all"]++
		}
	}
	if n["all"] == 0 {
		return nil, fmt.Errorf("%s: no code: is this QEMU built with -d in_asm?", path)
	}
	return n, nil
}

func owner(at uint64) string {
	switch {
	case at < kernelText:
		return "programs"
	case at < kernelText+kernelRoom:
		return "kernel"
	}
	return "modules"
}
