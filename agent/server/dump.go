package server

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Bounds of a dump, in bytes, and of its part of the kernel's log, in records.
const (
	maxGoroutines = 256 << 10
	maxProcesses  = 256 << 10
	maxRecords    = 60
)

// dump is what the agent, its children and the kernel are doing.
func dump() string {
	stacks := make([]byte, maxGoroutines)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return fmt.Sprintf("processes:\n%s\nkernel's log:\n%s\nagent's goroutines:\n%s", processes(), kernelLog(), stacks)
}

// processes tells, of each process of the guest, whose child it is, its state and
// where in the kernel it waits. The kernel's own threads matter only where they
// are stuck.
func processes() string {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var b strings.Builder
	for _, dir := range dirs {
		stat, err := os.ReadFile(filepath.Join(dir, "stat")) // proc(5)
		open, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		if err != nil || open < 0 || end < open {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[end+1:]))
		if len(fields) < 2 {
			continue
		}
		state, parent := fields[0], fields[1]
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		kernels := len(line) == 0 && state != "Z"
		if kernels && state != "D" {
			continue
		}
		fmt.Fprintf(&b, "%s (child of %s, %s) %s %q\n", filepath.Base(dir), parent, state, stat[open:end+1],
			strings.TrimRight(strings.ReplaceAll(string(line), "\x00", " "), " "))
		if dir != "/proc/"+strconv.Itoa(os.Getpid()) { // whose goroutines say more
			threads, _ := filepath.Glob(filepath.Join(dir, "task/[0-9]*/stack"))
			for _, thread := range threads {
				stack, _ := os.ReadFile(thread)
				b.Write(stack)
				b.WriteByte('\n')
			}
		}
		if b.Len() > maxProcesses {
			return b.String()[:maxProcesses]
		}
	}
	return b.String()
}

// kernelLog gives the latest records of the kernel's log (/dev/kmsg), one a line.
func kernelLog() string {
	fd, err := syscall.Open("/dev/kmsg", syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err.Error() + "\n"
	}
	defer syscall.Close(fd)
	var records []string
	buf := make([]byte, 8<<10) // a read gives one record
	for {
		n, err := syscall.Read(fd, buf)
		if err == syscall.EPIPE || err == syscall.EINTR { // older records were overwritten meanwhile
			continue
		}
		if err != nil || n <= 0 { // EAGAIN: that was the last one
			break
		}
		text, _, _ := strings.Cut(string(buf[:n]), "\n") // what follows is about the device
		records = append(records, text)
		records = records[max(0, len(records)-maxRecords):]
	}
	return strings.Join(records, "\n") + "\n"
}
