package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// driver runs one container with one runtime.
type driver struct {
	*reaper
	rt  []string // the program's path and its global flags
	dir string
	id  string
}

func newDriver(r *reaper, rt, dir, id string) (*driver, error) {
	argv := strings.Fields(rt)
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	argv[0] = path
	return &driver{reaper: r, rt: argv, dir: dir, id: id}, nil
}

func (d *driver) run(args ...string) error {
	// A file, not a pipe: processes that stay behind hold it too.
	errFile, err := os.Create(filepath.Join(d.dir, "stderr"))
	if err != nil {
		return err
	}
	defer errFile.Close()
	ws, err := d.reaper.run(append(d.rt[:len(d.rt):len(d.rt)], args...), errFile)
	if err == nil && (!ws.Exited() || ws.ExitStatus() != 0) {
		text, _ := os.ReadFile(errFile.Name())
		err = fmt.Errorf("status %#x: %s", ws, text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// create creates the container and gives the pid in the pid-file.
func (d *driver) create(bundle string) (int, error) {
	pidFile := filepath.Join(d.dir, "pid")
	if err := d.run("create", "--bundle", bundle, "--pid-file", pidFile, d.id); err != nil {
		return 0, err
	}
	b, err := os.ReadFile(pidFile)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// cycle gives the duration of each phase of a container's life in ms, and the CPU
// time that its cgroup has used for that: what the commands use is not in there.
func (d *driver) cycle(bundle string) (map[string]float64, error) {
	begin := time.Now()
	last := begin
	got := make(map[string]float64)
	lap := func(phase string) {
		now := time.Now()
		got[phase] = float64(now.Sub(last).Microseconds()) / 1000
		last = now
	}
	pid, err := d.create(bundle)
	if err != nil {
		return nil, err
	}
	lap("create")
	cpu, err := cpuTimeOf(pid)
	if err == nil {
		err = d.run("start", d.id)
	}
	if err != nil {
		return nil, errors.Join(err, d.run("delete", "--force", d.id))
	}
	lap("start")
	if ws := d.wait(pid); !ws.Exited() || ws.ExitStatus() != 0 {
		return nil, fmt.Errorf("exit status %#x", ws)
	}
	lap("wait")
	if got["CPU time"], err = cpu(); err != nil {
		return nil, err
	}
	if err := d.delete(); err != nil {
		return nil, err
	}
	lap("delete")
	got["total"] = float64(last.Sub(begin).Microseconds()) / 1000
	return got, nil
}

// cpuTimeOf finds the cgroup that a process is in, and gives what reads how much CPU
// time that has used, in ms: of version 1 where the host has that controller, else
// of version 2.
func cpuTimeOf(pid int) (read func() (float64, error), err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil, err
	}
	var unified string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if slices.Contains(strings.Split(f[1], ","), "cpuacct") {
			path := filepath.Join("/sys/fs/cgroup", f[1], f[2], "cpuacct.usage")
			return func() (float64, error) {
				b, err := os.ReadFile(path)
				if err != nil {
					return 0, err
				}
				ns, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
				return ns / 1e6, err
			}, nil
		}
		if f[1] == "" {
			unified = filepath.Join("/sys/fs/cgroup", f[2], "cpu.stat")
		}
	}
	return func() (float64, error) {
		b, err := os.ReadFile(unified)
		return float64(value(string(b), "usage_usec")) / 1e3, err
	}, nil
}

// delete deletes the container. Some runtimes need a moment after the death
// of the pid until they agree that it is stopped.
func (d *driver) delete() error {
	var err error
	for range 100 {
		if err = d.run("delete", d.id); err == nil || strings.Contains(err.Error(), "not exist") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// descendants are the live processes below pid.
func descendants(pid int) []int {
	parent := make(map[int]int)
	entries, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range entries {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has just ended
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 2 || f[0] == "Z" {
			continue
		}
		p, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent[p], _ = strconv.Atoi(f[1])
	}
	var found []int
	for p := range parent {
		for q := parent[p]; q > 1; q = parent[q] {
			if q == pid {
				found = append(found, p)
				break
			}
		}
	}
	return found
}

// value gives the number after a key in a file of proc(5).
func value(text, key string) int {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return 0
}

// guestMemory is the size in kB of the memfd that is a guest's memory, without
// its holes; 0 for a process that is no VM. Only QEMU counts: its file server
// has the same one.
func guestMemory(pid int) int {
	if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || !strings.Contains(exe, "qemu-system") {
		return 0
	}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	for _, link := range links {
		var st unix.Stat_t
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "/memfd:") && unix.Stat(link, &st) == nil {
			return int(st.Blocks / 2)
		}
	}
	return 0
}
