package testenv

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// snapshot is what exists: processes, cgroups, mounts, interfaces, files in
// /run, /dev/shm and the suite's TMPDIR, open descriptors of this process.
type snapshot map[string]int

func (s *Suite) tmp() string { return filepath.Join(s.Dir, "tmp") }

func (s *Suite) snapshot() (snapshot, error) {
	snap := make(snapshot)
	mounts, err := mountPoints()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		snap["mount "+m]++
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, i := range interfaces {
		snap["interface "+i.Name]++
	}
	for _, dir := range []string{"/run", "/dev/shm", s.tmp()} {
		filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				snap["file "+path]++
			}
			return nil
		})
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			snap["descriptor "+fdKind(to)]++
		}
	}
	for _, p := range processes() {
		snap[fmt.Sprintf("process %d (%s)", p.pid, p.name)]++
	}
	for _, dir := range s.cgroups() {
		snap["cgroup "+dir]++
	}
	return snap, nil
}

// fdKind leaves the inode number out: "pipe:[123]" is any pipe.
func fdKind(target string) string {
	if kind, _, ok := strings.Cut(target, ":["); ok {
		return kind
	}
	return target
}

// leaks says what there is that was not there before. What the kernel takes
// down by itself after the death of its owner (network namespaces) has a
// second for it.
func (s *Suite) leaks(before snapshot) []string {
	deadline := time.Now().Add(time.Second)
	for {
		found := s.look(before)
		if len(found) == 0 || time.Now().After(deadline) {
			return found
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (s *Suite) look(before snapshot) []string {
	now, err := s.snapshot()
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for what, n := range now {
		// The Go runtime makes its own, for timers and pidfds.
		if n <= before[what] || strings.HasPrefix(what, "descriptor anon_inode") {
			continue
		}
		if s.Ignore == nil || !s.Ignore(what) {
			found = append(found, fmt.Sprintf("%s (%d, before %d)", what, n, before[what]))
		}
	}
	slices.Sort(found)
	return found
}

// cgroups gives the suite's cgroups. The tree is the whole machine's: what is
// ours has a container's id in its name, or lies below a cgroup that is called
// as the Prefix, or is a spare's of a root of ours. conmon's own there is
// podman's, who never removes it.
func (s *Suite) cgroups() []string {
	var found []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() != "conmon" && (strings.Contains(d.Name(), s.Prefix+"-") || strings.Contains(path, "/"+s.Prefix+"/") || s.spares(path)) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// spares reports whether a cgroup is that of a spare machine of the suite's, by
// the mark of the runtime: nothing of the suite is in its name.
func (s *Suite) spares(path string) bool {
	if !strings.HasPrefix(filepath.Base(path), "vc-runtime-spare-") {
		return false
	}
	owner := make([]byte, 4096)
	n, err := unix.Lgetxattr(path, "trusted.vc-runtime", owner)
	return err == nil && strings.HasPrefix(string(owner[:n]), s.Dir+"/")
}

// rootLeaks gives the names below the runtime's state folder that belong to a
// container.
func rootLeaks(root, prefix string) []string {
	var found []string
	filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.Contains(filepath.Base(path), prefix) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// mountPoints gives the mount points of this namespace (proc(5), mountinfo).
func mountPoints() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 {
			points = append(points, f[4])
		}
	}
	return points, nil
}

type process struct {
	pid, parent int
	name        string
	state       byte
}

func (p process) String() string { return fmt.Sprintf("%d (%s, %c)", p.pid, p.name, p.state) }

// processes gives all processes of the suite but zombies, which are on their
// way to the reaper.
func processes() []process {
	entries, _ := os.ReadDir("/proc")
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, ok := readProcess(pid); ok && p.state != 'Z' && p.state != 'X' {
			all = append(all, p)
		}
	}
	return all
}

// Tree names all processes of the suite, for a failure's sake.
func Tree() string { return fmt.Sprint(processes()) }

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if err != nil || open < 0 || end < open {
		return process{}, false
	}
	f := strings.Fields(string(b[end+1:]))
	parent, err := strconv.Atoi(f[1])
	return process{pid: pid, parent: parent, name: string(b[open+1 : end]), state: f[0][0]}, err == nil
}

// Alive reports whether a process exists and is not a zombie.
func Alive(pid int) bool {
	p, ok := readProcess(pid)
	return ok && p.state != 'Z' && p.state != 'X'
}

// Processes names all processes with the given name that live in the suite.
func Processes(name string) []int {
	var pids []int
	for _, p := range processes() {
		if p.name == name {
			pids = append(pids, p.pid)
		}
	}
	return pids
}
