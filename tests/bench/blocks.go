package main

import (
	"bufio"
	"errors"
	"fmt"
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
	blockColumn = "| guest image | kernel | modules | programs | all | of them until create returns |"
)

// blocks counts the blocks of guest code that QEMU translates in the life of a
// container in a clone. Under emulation that is what most of a start's time
// goes to, and hardly depends on what else the machine does.
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
	const runs = 3
	fmt.Printf("Blocks of guest code translated for `true` in a clone, medians of %d runs, by whose code it is:\n\n%s\n|---|---|---|---|---|---|\n", runs, blockColumn)
	for _, image := range b.images {
		log := filepath.Join(b.dir, "in_asm")
		config, err := b.loggingConfig(image, log)
		if err != nil {
			return err
		}
		got := make(map[string][]float64)
		for i := range runs {
			d, err := b.driver(fmt.Sprintf("%s --root %s --config %s", rt, filepath.Join(b.dir, "run"), config), fmt.Sprintf("blocks-%d", i))
			if err != nil {
				return err
			}
			if i == 0 {
				if err := d.run("template", "create"); err != nil {
					return err
				}
			}
			if err := b.countBlocks(d, log, got); err != nil {
				return err
			}
		}
		fmt.Printf("| %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", filepath.Base(image),
			median(got["kernel"]), median(got["modules"]), median(got["programs"]), median(got["all"]), median(got["create"]))
	}
	return nil
}

// loggingConfig makes a configuration whose clones log what they translate.
func (b *bench) loggingConfig(image, log string) (string, error) {
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(b.dir, "blocks")
	if err != nil {
		return "", err
	}
	wrapper := filepath.Join(dir, "qemu")
	script := fmt.Sprintf("#!/bin/sh\ncase \" $* \" in *' -incoming '*) set -- \"$@\" -d in_asm -D %s ;; esac\nexec %s \"$@\"\n", log, qemu)
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		return "", err
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf("[hypervisor]\nqemu = %q\nguest_image = %q\ncache_dir = %q\nmemory = \"%dM\"\naccel = \"tcg\"\n",
		wrapper, image, filepath.Join(dir, "cache"), bootMemory)
	return config, os.WriteFile(config, []byte(text), 0o644)
}

// countBlocks drives one container and adds what was translated for it.
func (b *bench) countBlocks(d *driver, log string, got map[string][]float64) error {
	pid, err := d.create(b.quick)
	if err != nil {
		return err
	}
	created, err := readBlocks(log)
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
	all, err := readBlocks(log)
	if err != nil {
		return err
	}
	for column, n := range all {
		got[column] = append(got[column], float64(n))
	}
	got["create"] = append(got["create"], float64(created["all"]))
	return nil
}

// readBlocks counts the blocks in a log of QEMU's (-d in_asm): of each the first
// instruction follows a line with IN.
func readBlocks(path string) (map[string]int, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n := make(map[string]int)
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
