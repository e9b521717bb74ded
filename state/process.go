package state

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Process identifies a process for good: a pid alone is reused. The zero
// Process is no process, and is not alive.
type Process struct {
	Pid int `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat (proc(5)): clock ticks after
	// boot.
	StartTime uint64 `json:"startTime"`
}

// FindProcess makes a Process of a pid that is known to be alive, such as a
// child that was not waited for. It gives unix.ESRCH when there is none.
func FindProcess(pid int) (Process, error) {
	st, err := readStat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	return Process{Pid: pid, StartTime: st.start}, nil
}

// forgetBefore empties the processes of a record that is of an earlier boot: a
// stranger may have their pids by now.
func forgetBefore(recorded string, processes ...*Process) error {
	boot, err := BootID()
	if err != nil || recorded == boot {
		return err
	}
	for _, p := range processes {
		*p = Process{}
	}
	return nil
}

// stampBoot makes a record one of this boot, unless it is of one already.
func stampBoot(recorded *string) error {
	if *recorded != "" {
		return nil
	}
	boot, err := BootID()
	*recorded = boot
	return err
}

// Self is the calling process.
func Self() (Process, error) { return FindProcess(os.Getpid()) }

// Alive reports whether the process exists and has not ended: a zombie has
// released its mounts, files and memory. A process that cannot be looked at
// (no descriptors left, say) counts as alive: its death must not be concluded
// from a failure of ours.
func (p Process) Alive() bool { return !errors.Is(p.check(), unix.ESRCH) }

// check gives nil when the process is alive, unix.ESRCH when it is not, and
// another error when that cannot be told.
func (p Process) check() error {
	if p.Pid <= 0 {
		return unix.ESRCH
	}
	st, err := readStat(p.Pid)
	if err != nil {
		return err
	}
	if st.start != p.StartTime || st.ended() {
		return unix.ESRCH
	}
	return nil
}

// Signal sends sig to the process, never to a later one with the same pid.
// It gives unix.ESRCH when the process has ended.
func (p Process) Signal(sig unix.Signal) error {
	fd, err := p.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, sig, nil, 0)
}

// Wait returns when the process has ended, at once if it had before, or with
// ctx's error. The process need not be a child.
func (p Process) Wait(ctx context.Context) error {
	fd, err := p.open()
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// A pipe wakes the poll when ctx ends.
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("wait for pid %d: %w", p.Pid, err)
	}
	defer unix.Close(wake[0])
	stop := context.AfterFunc(ctx, func() { unix.Close(wake[1]) })
	defer func() {
		if stop() {
			unix.Close(wake[1])
		}
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for pid %d: %w", p.Pid, err)
		case fds[0].Revents != 0:
			return nil
		default:
			return ctx.Err()
		}
	}
}

// Kill sends SIGKILL and waits for the end, or for ctx. A process that has
// ended already is no error.
func (p Process) Kill(ctx context.Context) error {
	if err := p.Signal(unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill pid %d: %w", p.Pid, err)
	}
	return p.Wait(ctx)
}

// open gives a pidfd of the process, or ESRCH. The check after the opening
// makes sure that the fd is not of a later process with the same pid.
func (p Process) open() (int, error) {
	if p.Pid <= 0 {
		return -1, unix.ESRCH
	}
	fd, openErr := unix.PidfdOpen(p.Pid, 0)
	if err := p.check(); err != nil {
		if openErr == nil {
			unix.Close(fd)
		}
		return -1, err
	}
	// Where the opening failed the check came first in telling why: the pid
	// may be that of another process's thread by now (EINVAL).
	if openErr != nil {
		return -1, fmt.Errorf("open process %d: %w", p.Pid, openErr)
	}
	return fd, nil
}

// stat is what /proc/PID/stat (proc(5)) says of a process.
type stat struct {
	start   uint64 // field 22
	state   byte   // field 3
	flags   uint64 // field 9
	threads int    // field 20
}

// ended reports whether nothing of the process runs any more. The state is
// the first thread's, which may be a zombie while others still run, or are
// still about to release what the process held.
func (s stat) ended() bool { return (s.state == 'Z' || s.state == 'X') && s.threads <= 1 }

// readStat gives unix.ESRCH when there is no such process.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, os.ErrNotExist) {
		err = unix.ESRCH
	}
	if err != nil {
		return stat{}, err
	}
	s, err := parseStat(b)
	if err != nil {
		return stat{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return s, nil
}

func parseStat(b []byte) (stat, error) {
	// The command name is in parentheses and may hold any byte.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, errors.New("no command name")
	}
	f := bytes.Fields(b[i+1:]) // from field 3 on
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, fmt.Errorf("%d fields after the command name", len(f))
	}
	flags, err := strconv.ParseUint(string(f[6]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("flags: %w", err)
	}
	threads, err := strconv.Atoi(string(f[17]))
	if err != nil {
		return stat{}, fmt.Errorf("number of threads: %w", err)
	}
	start, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("start time: %w", err)
	}
	return stat{start: start, state: f[0][0], flags: flags, threads: threads}, nil
}

// ParentOf gives the pid of a process's parent.
func ParentOf(pid int) (int, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, err
	}
	// Field 4 (proc(5)); the name in field 2 may have anything but ends with the
	// last parenthesis.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat: %q", pid, b)
	}
	return strconv.Atoi(string(f[1]))
}
