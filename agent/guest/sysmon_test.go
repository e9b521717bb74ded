package guest

import (
	"errors"
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
	asleep := map[string]int{} // how often it was seen so
	for deadline := time.Now().Add(10 * time.Second); asleep[sysmon] < 100 && time.Now().Before(deadline); {
		for _, id := range all {
			call, err := os.ReadFile("/proc/" + id + "/syscall") // proc_pid_syscall(5)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(string(call), nanosleep) {
				asleep[id]++
			}
		}
	}
	if asleep[sysmon] < 100 {
		t.Errorf("thread %s, which is taken for the runtime's monitor, was seen asleep by the clock %d times in 10 s", sysmon, asleep[sysmon])
	}
	for id, n := range asleep {
		if id != sysmon && n > asleep[sysmon]/2 {
			t.Errorf("thread %s was seen asleep by the clock %d times, the one that is taken for the runtime's monitor (%s) %d times", id, n, sysmon, asleep[sysmon])
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
	slack := func(thread string) string {
		b, err := os.ReadFile(slackFile(thread))
		if errors.Is(err, os.ErrPermission) {
			t.Skip("NOT RUN: needs CAP_SYS_NICE: the timer slack of other threads")
		}
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	before := map[string]string{}
	for _, id := range all {
		before[id] = slack(id)
	}
	sysmon, err := sysmonThread()
	if err != nil {
		t.Fatal(err)
	}
	if err := LetSysmonSleep(); err != nil {
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
		if got := slack(id); got != want {
			t.Errorf("thread %s: a slack of %s ns, want %s", id, got, want)
		}
	}
}
