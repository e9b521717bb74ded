package server

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/agent/crun"
	"github.com/vc-runtime/vc-runtime/agent/reaper"
)

// noPasswd is a container without /etc/passwd.
func noPasswd() ([]byte, error) { return nil, os.ErrNotExist }

func TestTakePriority(t *testing.T) {
	got, err := confineProcess([]byte(`{"args":["a"],"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":3},
		"scheduler":{"policy":"SCHED_BATCH","nice":5,"flags":["SCHED_FLAG_RESET_ON_FORK"]}}`), false, noPasswd)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.config) != `{"args":["a"],"env":["HOME=/"],"terminal":false}` {
		t.Errorf("crun gets %s", got.config)
	}
	p := got.priority
	if p.io != 2<<13|3 || p.sched.Policy != unix.SCHED_BATCH || p.sched.Nice != 5 || p.sched.Flags != 1 {
		t.Errorf("%+v, %+v", p, p.sched)
	}
	for _, in := range []string{
		`"ioPriority":{}`, `"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":8}`, `"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":-1}`,
		`"ioPriority":1`, `"scheduler":{}`, `"scheduler":{"policy":"SCHED_ISO"}`, `"scheduler":{"policy":"SCHED_RR","flags":["x"]}`,
		`"scheduler":{"policy":"SCHED_RR","priority":-1}`,
	} {
		if _, err := confineProcess([]byte(`{"args":["a"],`+in+`}`), false, noPasswd); !errors.Is(err, errSpec) {
			t.Errorf("%s: %v, want a refusal", in, err)
		}
	}
}

func TestGivePriority(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	st := &crun.Started{Child: &reaper.Child{Pid: cmd.Process.Pid}}
	p := priority{io: ioClasses["IOPRIO_CLASS_IDLE"] << ioClassShift, sched: &unix.SchedAttr{Policy: unix.SCHED_BATCH, Nice: 7}}
	if err := p.give(st); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(st.Child.Pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	// proc(5): the name ends with ")", nice is field 19, policy 41.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	if f[19-3] != "7" || f[41-3] != strconv.Itoa(unix.SCHED_BATCH) {
		t.Errorf("nice %s, policy %s", f[19-3], f[41-3])
	}
	io, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, 1, uintptr(st.Child.Pid), 0)
	if errno != 0 || int(io) != p.io {
		t.Errorf("I/O priority %#x, %v", io, errno)
	}
	if err := (priority{sched: &unix.SchedAttr{Policy: unix.SCHED_FIFO, Priority: 1000}}).give(st); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a priority that the policy does not have: %v", err)
	}
}
