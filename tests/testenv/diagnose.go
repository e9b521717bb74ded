package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// diagnosisLimit is how long the monitors may take for their dumps: longer than
// they give the guest.
const diagnosisLimit = 20 * time.Second

// diagnose says what each process of the suite is doing: what its threads wait for
// in the kernel, and of monitors what they and their guests say (SIGUSR1). It is
// for a program that has not ended in time, before it is killed.
func (s *Suite) diagnose() string {
	var b strings.Builder
	var dumps []func() string
	dirs, _ := filepath.Glob("/proc/[0-9]*") // of the suite's own pid namespace
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		line, _ := os.ReadFile(dir + "/cmdline")
		if err != nil || pid == os.Getpid() || len(line) == 0 {
			continue
		}
		args := strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")
		fmt.Fprintf(&b, "process %d: %.400s\n%s", pid, strings.Join(args, " "), threads(dir))
		if len(args) == 4 && args[1] == "monitor" {
			dumps = append(dumps, askMonitor(pid, filepath.Join(args[2], "sandboxes", args[3], "monitor.log")))
		}
	}
	for _, dump := range dumps {
		b.WriteString(dump())
	}
	return b.String()
}

// threads says of each thread of a process in what state it is, where in the
// kernel, and in which system call.
func threads(dir string) string {
	var b strings.Builder
	tasks, _ := filepath.Glob(dir + "/task/*")
	for _, task := range tasks {
		stat, err := os.ReadFile(task + "/stat")
		end := strings.LastIndexByte(string(stat), ')')
		if err != nil || end < 0 {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[end+1:])) // from field 3 on (proc(5))
		if len(fields) < 13 {
			continue
		}
		where, _ := os.ReadFile(task + "/wchan")
		call, _ := os.ReadFile(task + "/syscall")
		number, _, _ := strings.Cut(strings.TrimSpace(string(call)), " ")
		fmt.Fprintf(&b, "  thread %s: parent %s, %s, in %s, system call %s, ticks %s user %s system\n",
			filepath.Base(task), fields[1], fields[0], where, number, fields[11], fields[12])
	}
	return b.String()
}

// askMonitor has a monitor write a dump to its log, and gives what waits for that.
func askMonitor(pid int, log string) func() string {
	var before int64
	if st, err := os.Stat(log); err == nil {
		before = st.Size()
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		return func() string { return fmt.Sprintf("monitor %d: %v\n", pid, err) }
	}
	deadline := time.Now().Add(diagnosisLimit)
	return func() string {
		for {
			text, err := os.ReadFile(log)
			if err != nil || int64(len(text)) < before {
				return fmt.Sprintf("monitor %d: %v\n", pid, err)
			}
			said := string(text[before:])
			if strings.HasSuffix(said, "\nend of dump\n") || time.Now().After(deadline) {
				return fmt.Sprintf("monitor %d, its log before:\n%s\nand since:\n%s", pid, text[:before], said)
			}
			time.Sleep(20 * time.Millisecond) // there is no event for it
		}
	}
}
