package guest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestSysmonThread: the thread that is taken for the runtime's monitor is the one
// that sleeps by the clock (nanosleep) while goroutines run; others hardly ever do.
func TestSysmonThread(t *testing.T) {
	sysmon, err := sysmonThread()
	if err != nil {
		t.Fatal(err)
	}
	all, err := threads()
	if err != nil {
		t.Fatal(err)
	}
	nanosleep := strconv.Itoa(unix.SYS_NANOSLEEP) + " "
	asleep := map[int]int{} // how often it was seen so
	for deadline := time.Now().Add(10 * time.Second); asleep[sysmon] < 100 && time.Now().Before(deadline); {
		for _, id := range all {
			call, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", id)) // proc_pid_syscall(5)
			if id == sysmon && err != nil {
				t.Skip("NOT RUN: needs the right to look at its own threads:", err)
			}
			if strings.HasPrefix(string(call), nanosleep) {
				asleep[id]++
			}
		}
	}
	if asleep[sysmon] < 100 {
		t.Errorf("thread %d, which is taken for the runtime's monitor, was seen asleep by the clock %d times in 10 s", sysmon, asleep[sysmon])
	}
	for id, n := range asleep {
		if id != sysmon && n > asleep[sysmon]/2 {
			t.Errorf("thread %d was seen asleep by the clock %d times, the one that is taken for the runtime's monitor (%d) %d times", id, n, sysmon, asleep[sysmon])
		}
	}
}

// TestLetSysmonSleep: the monitor may be late, and no other thread, so no program
// inherits it.
func TestLetSysmonSleep(t *testing.T) {
	all, err := threads()
	if err != nil {
		t.Fatal(err)
	}
	before := map[int]string{}
	for _, id := range all {
		b, err := os.ReadFile(slackFile(id))
		if err != nil {
			t.Skip("NOT RUN: needs CAP_SYS_NICE:", err)
		}
		before[id] = strings.TrimSpace(string(b))
	}
	sysmon, err := sysmonThread()
	if err != nil {
		t.Fatal(err)
	}
	if err := LetSysmonSleep(); os.IsPermission(err) {
		t.Skip("NOT RUN: needs CAP_SYS_NICE:", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(slackFile(sysmon), []byte(before[sysmon]), 0); err != nil {
			t.Error(err)
		}
	})
	for _, id := range all {
		want := before[id]
		if id == sysmon {
			want = "1000000"
		}
		b, err := os.ReadFile(slackFile(id))
		if err != nil {
			continue // a thread that has ended
		}
		if got := strings.TrimSpace(string(b)); got != want {
			t.Errorf("thread %d: a slack of %s ns, want %s", id, got, want)
		}
	}
}
