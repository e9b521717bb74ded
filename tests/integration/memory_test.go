package integration

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// guestMemory is how much of a VM's memory the host has, in bytes: the blocks of
// the file that it is. What the guest has given back is holes.
func guestMemory(t testing.TB, vm int) int64 {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", vm))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || !strings.HasPrefix(target, "/memfd:") {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(link, &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	t.Fatalf("process %d has no memfd", vm)
	return 0
}

// TestMemoryGivenBack takes 200 MB in the guest and lets go of them: four fifths
// are the host's again, without a word from anybody.
func TestMemoryGivenBack(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	const taken = 200 << 20
	// dd reads all of it, and cannot write until somebody reads.
	script := fmt.Sprintf("while [ ! -e /take ]; do sleep 0.1; done; dd if=/dev/zero bs=%d count=1 | (while [ ! -e /release ]; do sleep 0.1; done; cat >/dev/null); echo >/freed; sleep 1000", taken)
	c := e.Configured(testenv.Settings{"hypervisor.memory": `"512M"`}).Started(nil, testenv.Shell(script))
	vm := e.SandboxPids(c.ID).VM
	before := guestMemory(t, vm)
	if err := os.WriteFile(filepath.Join(c.Bundle.Rootfs, "take"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, time.Minute, func() error {
		if now := guestMemory(t, vm); now < before+taken*9/10 {
			return fmt.Errorf("%d MiB before, %d now: the guest has not taken its memory", before>>20, now>>20)
		}
		return nil
	})
	most := guestMemory(t, vm)
	if err := os.WriteFile(filepath.Join(c.Bundle.Rootfs, "release"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("freed")
	begin := time.Now()
	testenv.Eventually(t, 30*time.Second, func() error {
		if now := guestMemory(t, vm); most-now < taken*8/10 {
			return fmt.Errorf("%d MiB at most, %d now: the guest does not give back", most>>20, now>>20)
		}
		return nil
	})
	t.Logf("%d MiB before, %d at most, %d after %s", before>>20, most>>20, guestMemory(t, vm)>>20, time.Since(begin).Round(time.Millisecond))
	c.DeleteForced()
}

// TestPageCacheBounded reads a large file of a shared folder: it does not stay
// in the guest's memory, since the host has it in its own.
func TestPageCacheBounded(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	const size = 120 << 20
	b := e.Bundle(testenv.Shell("while [ ! -e /go ]; do sleep 0.1; done; cat /big >/dev/null; echo >/read; sleep 1000"))
	if err := os.WriteFile(filepath.Join(b.Rootfs, "big"), bytes.Repeat([]byte("0123456789abcde\n"), size/16), 0o644); err != nil {
		t.Fatal(err)
	}
	c := e.CreateFrom(b, nil)
	c.Start()
	// What is read ahead of a share (agent/guest, Shares.Mount). The rootfs is a mount in it, which has no number of its own there.
	if got := e.OK("exec", c.ID, "sh", "-c", `cat /sys/class/bdi/*/read_ahead_kb`).Stdout; strings.Count("\n"+got, "\n512\n") != 1 {
		t.Errorf("what the guest reads ahead of its file systems, in KiB, is %q: one share with 512 was expected", got)
	}
	vm := e.SandboxPids(c.ID).VM
	before := guestMemory(t, vm)
	if err := os.WriteFile(filepath.Join(b.Rootfs, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.WaitFor("read")
	// The guest of 256 MiB has some 200: a quarter may stay, and the agent looks every 10 s.
	testenv.Eventually(t, time.Minute, func() error {
		if now := guestMemory(t, vm); now > before+size*2/3 {
			return fmt.Errorf("%d MiB before, %d now, of a file of %d", before>>20, now>>20, size>>20)
		}
		return nil
	})
	t.Logf("%d MiB before, %d in the end", before>>20, guestMemory(t, vm)>>20)
	c.DeleteForced()
}
