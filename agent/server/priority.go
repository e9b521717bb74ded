package server

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/crun"
)

// priority is what an OCI process says of its scheduling. The guest's OCI
// runtime (crun 1.8) does not know it, so the agent sets it: for a container's
// init before it execs, for others at once after. The zero priority is none.
type priority struct {
	io    int // of ioprio_set(2); 0 for none
	sched *unix.SchedAttr
}

// ioClasses are the classes of ioprio_set(2).
var ioClasses = map[string]int{"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}

// ioClassShift is where the class is in a priority (linux/ioprio.h).
const ioClassShift = 13

// Policies and flags of sched_setattr(2).
var (
	schedPolicies = map[string]uint32{
		"SCHED_OTHER": unix.SCHED_NORMAL, "SCHED_FIFO": unix.SCHED_FIFO, "SCHED_RR": unix.SCHED_RR,
		"SCHED_BATCH": unix.SCHED_BATCH, "SCHED_IDLE": unix.SCHED_IDLE, "SCHED_DEADLINE": unix.SCHED_DEADLINE,
	}
	schedFlags = map[string]uint64{
		"SCHED_FLAG_RESET_ON_FORK": unix.SCHED_FLAG_RESET_ON_FORK, "SCHED_FLAG_RECLAIM": unix.SCHED_FLAG_RECLAIM,
		"SCHED_FLAG_DL_OVERRUN": unix.SCHED_FLAG_DL_OVERRUN, "SCHED_FLAG_KEEP_POLICY": unix.SCHED_FLAG_KEEP_POLICY,
		"SCHED_FLAG_KEEP_PARAMS": unix.SCHED_FLAG_KEEP_PARAMS, "SCHED_FLAG_UTIL_CLAMP_MIN": unix.SCHED_FLAG_UTIL_CLAMP_MIN,
		"SCHED_FLAG_UTIL_CLAMP_MAX": unix.SCHED_FLAG_UTIL_CLAMP_MAX,
	}
)

// takePriority takes the priority out of an OCI process object.
func takePriority(process object) (priority, error) {
	var p priority
	var io *struct {
		Class    string
		Priority int
	}
	var sched *struct {
		Policy                    string
		Nice                      int32
		Priority                  uint32
		Flags                     []string
		Runtime, Deadline, Period uint64
	}
	if err := process.get("ioPriority", &io); err != nil {
		return p, err
	}
	if err := process.get("scheduler", &sched); err != nil {
		return p, err
	}
	delete(process, "ioPriority")
	delete(process, "scheduler")
	if io != nil {
		class, ok := ioClasses[io.Class]
		if !ok || io.Priority < 0 || io.Priority > 7 {
			return p, fmt.Errorf("ioPriority: class %.100q, priority %d: %w", io.Class, io.Priority, errSpec)
		}
		p.io = class<<ioClassShift | io.Priority
	}
	if sched != nil {
		policy, ok := schedPolicies[sched.Policy]
		if !ok {
			return p, fmt.Errorf("scheduler.policy: %.100q: %w", sched.Policy, errSpec)
		}
		p.sched = &unix.SchedAttr{
			Policy: policy, Nice: sched.Nice, Priority: sched.Priority,
			Runtime: sched.Runtime, Deadline: sched.Deadline, Period: sched.Period,
		}
		for _, name := range sched.Flags {
			flag, ok := schedFlags[name]
			if !ok {
				return p, fmt.Errorf("scheduler.flags: %.100q: %w", name, errSpec)
			}
			p.sched.Flags |= flag
		}
	}
	return p, nil
}

// give sets the priority of a process that has been started. One that has
// ended already does not need it.
func (p priority) give(st *crun.Started) error {
	if p.io != 0 {
		const process = 1 // IOPRIO_WHO_PROCESS
		if _, _, errno := unix.Syscall(unix.SYS_IOPRIO_SET, process, uintptr(st.Child.Pid), uintptr(p.io)); errno != 0 && errno != syscall.ESRCH {
			return fmt.Errorf("process.ioPriority: %w", errno)
		}
	}
	if p.sched != nil {
		if err := ignoreGone(unix.SchedSetAttr(st.Child.Pid, p.sched, 0)); err != nil {
			return fmt.Errorf("process.scheduler: %w", err)
		}
	}
	return nil
}
