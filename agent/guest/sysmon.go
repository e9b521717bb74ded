package guest

import (
	"fmt"
	"os"
	"strconv"

	"github.com/vc-runtime/vc-runtime/agent/api"
)

// IsEmulated reports whether this machine's processor is emulated
// (api.EmulatedArg).
func IsEmulated() bool { return told(api.EmulatedArg) }

// sysmonSlack is how late the runtime's monitor may wake up, in nanoseconds.
const sysmonSlack = 1_000_000

// LetSysmonSleep lets the thread that looks after Go's scheduler (runtime.sysmon)
// wake up a millisecond late. While goroutines run it sleeps for 20 µs at a time,
// which on an emulated processor is no sleep at all: a seventh of an exec went into
// its timers. What it does then, taking the processor from a goroutine in a long
// system call or after 10 ms, can wait as long. The slack of the others stays:
// programs inherit that of the thread that starts them (prctl(2),
// PR_SET_TIMERSLACK), and this one starts none. It needs CAP_SYS_NICE.
func LetSysmonSleep() error {
	sysmon, err := sysmonThread()
	if err != nil {
		return err
	}
	return os.WriteFile(slackFile(sysmon), []byte(strconv.Itoa(sysmonSlack)), 0)
}

// slackFile has a thread's timer slack, in nanoseconds (proc_pid_timerslack_ns(5)):
// under the thread's number, which no listing of /proc shows.
func slackFile(thread int) string { return fmt.Sprintf("/proc/%d/timerslack_ns", thread) }

// sysmonThread is the one that the runtime has started first, before any
// package's code runs (runtime.main).
func sysmonThread() (int, error) {
	threads, err := threads()
	if err == nil && len(threads) < 2 {
		err = fmt.Errorf("the runtime has no thread beside %v", threads)
	}
	if err != nil {
		return 0, err
	}
	return threads[1], nil
}

// threads are this process's, the oldest first: the kernel lists them in the order
// of their making (proc_task_readdir).
func threads() ([]int, error) {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var ids []int
	for _, name := range names {
		id, err := strconv.Atoi(name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}
