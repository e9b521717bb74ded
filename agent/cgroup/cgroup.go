// Package cgroup reads and controls one cgroup of the guest: the folder that
// holds all processes of one container. It knows cgroup v2 only, and runs in
// the agent.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Group is a cgroup folder. It need not exist: a group that is not there is
// empty, and has nothing to kill or to remove.
type Group struct {
	Dir string // absolute
}

// Kill sends SIGKILL to every process of the group and of those below it
// (cgroup.kill, Linux 5.14).
func (g Group) Kill() error {
	err := g.write("cgroup.kill", "1")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// WaitEmpty waits until no process is left in the group.
func (g Group) WaitEmpty(ctx context.Context) error {
	return g.waitEvent(ctx, "populated", "0")
}

// Freeze stops all processes of the group and waits until they are stopped.
func (g Group) Freeze(ctx context.Context) error {
	if err := g.write("cgroup.freeze", "1"); err != nil {
		return err
	}
	return g.waitEvent(ctx, "frozen", "1")
}

// Thaw undoes Freeze.
func (g Group) Thaw(ctx context.Context) error {
	if err := g.write("cgroup.freeze", "0"); err != nil {
		return err
	}
	return g.waitEvent(ctx, "frozen", "0")
}

func (g Group) write(file, value string) error {
	return os.WriteFile(filepath.Join(g.Dir, file), []byte(value), 0)
}

// waitEvent waits until key has the value want in cgroup.events.
func (g Group) waitEvent(ctx context.Context, key, want string) error {
	err := g.watch(ctx, "cgroup.events", func(b []byte) bool { return keyed(b, key) == want })
	if ctx.Err() != nil {
		return fmt.Errorf("wait for %s %s in %s: %w", key, want, g.Dir, ctx.Err())
	}
	if gone(err) {
		return nil
	}
	return err
}

// watch waits until a file of events has what found is looking for. The kernel
// reports each change of such a file to inotify. Errors: ENOENT or ENODEV
// where the group does not exist (any more).
func (g Group) watch(ctx context.Context, name string, found func([]byte) bool) error {
	path := filepath.Join(g.Dir, name)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	changes := os.NewFile(uintptr(fd), "inotify")
	defer changes.Close()
	stop := context.AfterFunc(ctx, func() { changes.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_MODIFY); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	buf := make([]byte, 4096)
	for {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if found(b) {
			return nil
		}
		if _, err := changes.Read(buf); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("watch %s: %w", path, err)
		}
	}
}

// keyed gives the value of key in a flat-keyed file of a cgroup, "" when it
// is not there.
func keyed(b []byte, key string) string {
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		if k, v, ok := strings.Cut(sc.Text(), " "); ok && k == key {
			return v
		}
	}
	return ""
}

// OOMKills tells how many processes of the group the kernel's OOM killer has
// ended.
func (g Group) OOMKills() uint64 {
	b, err := os.ReadFile(filepath.Join(g.Dir, "memory.events"))
	if err != nil {
		return 0
	}
	return oomKills(b)
}

func oomKills(events []byte) uint64 {
	n, err := strconv.ParseUint(keyed(events, "oom_kill"), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// WaitOOM waits until there are more OOMKills than are known, and gives their
// number. Errors: ESRCH where the group does not exist (any more).
func (g Group) WaitOOM(ctx context.Context, known uint64) (kills uint64, err error) {
	err = g.watch(ctx, "memory.events", func(b []byte) bool {
		kills = oomKills(b)
		return kills > known
	})
	if gone(err) {
		return 0, fmt.Errorf("cgroup %s has gone: %w", g.Dir, syscall.ESRCH)
	}
	return kills, err
}

// Pids lists the processes of the group and of those below it.
func (g Group) Pids() ([]int, error) {
	var pids []int
	err := g.walk(func(dir string) error {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, syscall.ENOTSUP) || gone(err) {
			return nil // a threaded group, whose processes its parent lists
		}
		if err != nil {
			return err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Remove deletes the group and those below it, waiting until they are empty.
func (g Group) Remove(ctx context.Context) error {
	if err := g.WaitEmpty(ctx); err != nil {
		return err
	}
	return g.walk(func(dir string) error {
		err := unix.Rmdir(dir)
		if err == nil || gone(err) {
			return nil
		}
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	})
}

// walk calls f for the group's folder and all below it, the deepest first.
func (g Group) walk(f func(dir string) error) error {
	entries, err := os.ReadDir(g.Dir)
	if gone(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := (Group{filepath.Join(g.Dir, e.Name())}).walk(f); err != nil {
			return err
		}
	}
	return f(g.Dir)
}

func gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

// statFiles are the files that Stats reads; hugetlb's are matched besides.
var statFiles = []string{
	"cpu.stat", "cpu.max", "cpu.weight", "cpu.pressure", "cpuset.cpus.effective", "cpuset.mems.effective",
	"memory.current", "memory.peak", "memory.max", "memory.high", "memory.low", "memory.stat", "memory.events",
	"memory.swap.current", "memory.swap.max", "memory.swap.events", "memory.pressure",
	"io.stat", "io.pressure",
	"pids.current", "pids.max", "pids.peak", "pids.events",
	"rdma.current", "misc.current",
	"cgroup.stat", "cgroup.events",
}

// Stats gives the files of the group that hold statistics, unparsed, by name.
// Files that the kernel does not offer are left out.
func (g Group) Stats() (map[string]string, error) {
	if _, err := os.Stat(g.Dir); err != nil {
		return nil, err
	}
	names := statFiles
	huge, err := filepath.Glob(filepath.Join(g.Dir, "hugetlb.*"))
	if err != nil {
		return nil, err
	}
	for _, path := range huge {
		names = append(names[:len(names):len(names)], filepath.Base(path))
	}
	files := make(map[string]string, len(names))
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(g.Dir, name)); err == nil {
			files[name] = string(b)
		}
	}
	return files, nil
}
