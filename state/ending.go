package state

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// flagExiting is PF_EXITING of the kernel's task flags (proc(5), stat, field 9).
const flagExiting = 0x4

// Ending reports whether the process is alive but on its way out: it has been
// sent SIGKILL, or is exiting. kill(2) returns before its target has gone, so
// that who looks right after it still finds the process.
func (p Process) Ending() bool {
	st, err := readStat(p.Pid)
	if err != nil || st.start != p.StartTime || st.ended() {
		return false
	}
	return st.flags&flagExiting != 0 || pendingKill(p.Pid)
}

// pendingKill looks for SIGKILL among the pending signals (proc(5), status):
// SigPnd, where the kernel puts it for each thread until that obeys, and
// ShdPnd, where a SIGKILL for the whole process stays to its end. The latter
// covers the moment after the former in which the thread is not exiting yet.
func pendingKill(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(b) {
		name, mask, _ := bytes.Cut(line, []byte(":"))
		if string(name) != "SigPnd" && string(name) != "ShdPnd" {
			continue
		}
		pending, err := strconv.ParseUint(string(bytes.TrimSpace(mask)), 16, 64)
		if err == nil && pending&(1<<(uint(unix.SIGKILL)-1)) != 0 {
			return true
		}
	}
	return false
}
