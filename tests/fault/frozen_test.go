package fault

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// What is promised while a part is frozen.
const (
	stateBound = time.Second
	killBound  = 5 * time.Second
)

// TestFrozen stops each part of a running container in turn.
func TestFrozen(t *testing.T) {
	warm(t)
	for _, victim := range []string{"QEMU", "agent", "file server", "monitor", "shim"} {
		t.Run(victim, func(t *testing.T) {
			w := newWorld(t)
			c := w.Started(nil, testenv.Args("sleep", "1000"))
			w.freeze(victim)
			w.within(stateBound, "state", c.ID)
			w.IsStatus(c.ID, "running")
			w.within(killBound, "kill", c.ID, "KILL")
			w.IsStatus(c.ID, "stopped")
			if err := c.Bundle.Overlay.Cycle(); err != nil {
				t.Error(err)
			}
			c.DeleteForced()
			if err := w.quiet(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("monitor, and the shim dies", func(t *testing.T) {
		w := newWorld(t)
		c := w.Started(nil, testenv.Args("sleep", "1000"))
		w.freeze("monitor")
		w.Signal(c.Pid, unix.SIGKILL)
		w.within(killBound, "delete", "--force", c.ID)
		if err := w.quiet(); err != nil {
			t.Error(err)
		}
	})
	t.Run("delete", func(t *testing.T) { // without a kill
		w := newWorld(t)
		c := w.Started(nil, testenv.Args("sleep", "1000"))
		for _, victim := range []string{"QEMU", "file server", "monitor", "shim"} {
			w.freeze(victim)
		}
		c.DeleteForced()
		if err := w.quiet(); err != nil {
			t.Error(err)
		}
	})
}

// TestFileServerDies: a container without files ends at once, and nobody asks the
// guest first, whose processes hang.
func TestFileServerDies(t *testing.T) {
	warm(t)
	w := newWorld(t)
	c := w.Started(nil, testenv.Shell("touch /ready; while :; do cat /bin/sh >/dev/null; done"))
	c.WaitFor("ready")
	w.takes(stateBound/2, "the end", func() {
		for _, pid := range victims("file server") {
			w.Signal(pid, unix.SIGKILL)
		}
		w.Equal("exit code", c.Wait(testenv.DefaultTimeout), 137)
	})
	w.IsStatus(c.ID, "stopped")
	if err := c.Bundle.Overlay.Cycle(); err != nil {
		t.Error(err)
	}
	c.Delete()
}

// TestExitBesideFrozenFileServer: a process ends while a file is being read ahead for
// it. The guest's kernel may not take the file's file system away meanwhile
// (agent/server/mountns.go), or the process does not end.
func TestExitBesideFrozenFileServer(t *testing.T) {
	warm(t)
	w := newWorld(t)
	c := w.Started(nil, testenv.Shell("cp /bin/probe /dev && exec /dev/probe leave /bin/probe"))
	if err := c.EndOfStdout(testenv.DefaultTimeout); err != nil {
		t.Fatal(err)
	}
	for _, pid := range victims("file server") {
		w.Signal(pid, unix.SIGSTOP)
	}
	w.OK("kill", c.ID, "USR1")
	w.Equal("exit code", c.Wait(testenv.DefaultTimeout), 7)
	w.IsStatus(c.ID, "stopped")
	c.Delete()
}

// within runs a command that must not take longer than bound.
func (w *world) within(bound time.Duration, args ...string) {
	w.Helper()
	w.takes(bound, args[0], func() {
		if res := w.Do(args...); res.Code != 0 {
			w.Error(res)
		}
	})
}

// takes does what must not take longer than bound, and what this machine's load
// adds: many times the longest that version takes meanwhile, which has nothing to
// wait for.
func (w *world) takes(bound time.Duration, what string, do func()) {
	w.Helper()
	over, load := make(chan struct{}), make(chan time.Duration)
	go func() {
		longest := time.Duration(0)
		for {
			longest = max(longest, w.Do("--version").Took)
			select {
			case <-over:
				load <- longest
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	begin := time.Now()
	do()
	took := time.Since(begin)
	close(over)
	longest := <-load
	w.Logf("%s took %s; --version %s at most meanwhile", what, took.Round(time.Millisecond), longest.Round(time.Millisecond))
	if took > bound+10*longest {
		w.Errorf("%s took %s, expected within %s", what, took, bound)
	}
}

// freeze stops a part. The agent is PID 1 of the guest, which cannot be stopped
// in there: so the guest's CPUs are, and QEMU goes on.
func (w *world) freeze(victim string) {
	w.Helper()
	pids := victims(victim)
	if victim == "agent" {
		pids = victims("QEMU")
	}
	if len(pids) == 0 {
		w.Fatalf("no %s", victim)
	}
	for _, pid := range pids {
		if victim == "agent" {
			w.freezeGuest(pid)
		} else {
			w.Signal(pid, unix.SIGSTOP)
		}
	}
}

// holdVar has this program hold the threads of a process, instead of testing.
const holdVar = "VC_FAULTS_HOLD"

// freezeGuest stops all threads of a QEMU but its main one, which serves its
// monitor, until the test ends. A program of its own does it, since the threads
// become its to reap (ptrace(2)).
func (w *world) freezeGuest(qemu int) {
	w.Helper()
	exe, err := os.Executable()
	if err != nil {
		w.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), holdVar+"="+strconv.Itoa(qemu))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		w.Fatalf("hold the threads of QEMU: %q, %v", line, err)
	}
}

// hold is the other program: it says when all threads are stopped, and ends
// with the last of them.
func hold(pid string, told io.Writer) error {
	runtime.LockOSThread() // who has attached has to wait
	defer runtime.UnlockOSThread()
	tasks, err := os.ReadDir("/proc/" + pid + "/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if task.Name() == pid {
			continue
		}
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if err := unix.PtraceSeize(tid); errors.Is(err, unix.ESRCH) {
			continue // it has ended
		} else if err != nil {
			return fmt.Errorf("attach to thread %d: %w", tid, err)
		}
		if err := unix.PtraceInterrupt(tid); err != nil {
			return fmt.Errorf("stop thread %d: %w", tid, err)
		}
		var ws unix.WaitStatus
		if _, err := unix.Wait4(tid, &ws, unix.WALL, nil); err != nil {
			return fmt.Errorf("wait for thread %d: %w", tid, err)
		}
	}
	fmt.Fprintln(told, "stopped")
	for {
		// Nobody is let go; the dead ones are reaped, else their process stays.
		if _, err := unix.Wait4(-1, nil, unix.WALL, nil); errors.Is(err, unix.ECHILD) {
			return nil
		} else if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
