package cgroup

import (
	"os"
	"path/filepath"
	"strconv"
)

// Hasten has the kernel begin with what it waits for before it moves a process from
// one cgroup to another, a grace period of RCU: 5 to 15 ms, during which whoever
// makes a container has other things to do. Moves of the next 10 ms do without
// (kernel/cgroup/cgroup.c, cgroup_threadgroup_rwsem; kernel/rcu/sync.c). It returns
// when that is over, and changes nothing: this process is moved to where it is.
// Where that cannot be it does nothing.
func Hasten() {
	h, err := readHost()
	if err != nil {
		return
	}
	own, err := h[0].below(h[0].own) // any hierarchy: they have one lock
	if err != nil {
		return
	}
	_ = write(filepath.Join(h[0].mount, own, "cgroup.procs"), strconv.Itoa(os.Getpid()))
}
