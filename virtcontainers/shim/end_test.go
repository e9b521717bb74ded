package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// initEnv makes the test binary the first process of a pid namespace.
const initEnv = "VC_TEST_INIT"

// TestEndNamespace: when the shim of a container is about to exit, the processes of
// its namespace have gone, reaped, those too that do not belong to it directly.
func TestEndNamespace(t *testing.T) {
	if os.Getenv(initEnv) != "" {
		if err := playInit(); err != nil {
			t.Fatal(err)
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: not root: a pid namespace, which the test is the first process of, needs CAP_SYS_ADMIN")
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestEndNamespace$")
	cmd.Env = append(os.Environ(), initEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID, Pdeathsig: unix.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func playInit() error {
	// A grandchild in a session of its own, whose parent ends before it or after.
	for range 5 {
		cmd := exec.Command("/bin/sh", "-c", "setsid sleep 1000 & echo; exec sleep 1000")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			return err
		}
	}
	if err := unix.Kill(-1, 0); err != nil {
		return fmt.Errorf("nobody to be ended: %w", err)
	}
	endNamespace(context.Background(), nil)
	if err := unix.Kill(-1, 0); !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("somebody is left: %v", err)
	}
	return nil
}
