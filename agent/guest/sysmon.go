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
func slackFile(thread string) string { return "/proc/" + thread + "/timerslack_ns" }

// sysmonThread is the one that the runtime has started first, before any
// package's code runs (runtime.main).
func sysmonThread() (string, error) {
	all, err := threads()
	if err == nil && len(all) < 2 {
		err = fmt.Errorf("the runtime has no thread beside %v", all)
	}
	if err != nil {
		return "", err
	}
	return all[1], nil
}

// threads are the numbers of this process's, the oldest first: the kernel lists them
// in the order of their making (proc_task_readdir), os.ReadDir would sort them.
func threads() ([]string, error) {
	dir, err := os.Open("/proc/self/task")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}
