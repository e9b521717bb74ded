package state

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// A stopped process that is held in a ptrace stop cannot be made here, so the
// test looks at a process right after its SIGKILL, many times: it is ending or
// it has ended, but never simply alive.
func TestKilledProcessIsEnding(t *testing.T) {
	for range 50 {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := FindProcess(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if p.Ending() {
			t.Error("a process that nobody killed is ending")
		}
		if err := p.Signal(unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if !p.Ending() && p.Alive() {
			t.Error("a killed process is neither ending nor dead")
		}
		cmd.Wait()
	}
}
