package virtcontainers

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/hypervisor"
	"github.com/vc-runtime/vc-runtime/hypervisor/qemu"
	"github.com/vc-runtime/vc-runtime/state"
)

// A machine without a monitor is an orphan of the root that its name tells, and
// of no other. One whose name tells none is shown, and not ended.
func TestOrphanedMachine(t *testing.T) {
	store, err := state.Open(filepath.Join(t.TempDir(), "a,b"))
	if err != nil {
		t.Fatal(err)
	}
	d := &doctor{r: &Runtime{Store: store}}
	monitor := &process{argv: []string{"/usr/bin/vc-runtime", MonitorCommand, store.Root(), "c1"}}
	for _, tt := range []struct {
		name, machine string
		parent        *process
		found         bool
		owner         string
	}{
		{"ours", state.Mark(store.Root(), "c1"), nil, true, "c1"},
		{"ours, with a monitor", state.Mark(store.Root(), "c1"), monitor, false, ""},
		{"of another root", state.Mark(store.Root()+"2", "c1"), nil, false, ""},
		{"of a root below ours", state.Mark(store.Root()+"/c1", "c1"), nil, false, ""},
		{"of a version before", "c1", nil, true, ""},
	} {
		p := &process{Process: state.Process{Pid: 2}, parent: 1}
		p.argv = append([]string{"qemu-system-x86_64"}, qemu.Args(hypervisor.Config{Name: tt.machine}, qemu.Layout{})...)
		all := map[int]*process{2: p}
		if tt.parent != nil {
			all[1] = tt.parent
		}
		o := d.examine(all, p)
		if (o != nil) != tt.found || o != nil && o.Owner != tt.owner {
			t.Errorf("%s: found %+v, expected %t, of %q", tt.name, o, tt.found, tt.owner)
		}
	}
}

// hiddenVar has this program be a process that waits for the end of its input. Its
// value is a folder that is to be another one for it, if not "".
const hiddenVar = "VC_TEST_HIDDEN"

// A process by the same arguments that has another folder at the root's path is of
// another root.
func TestSees(t *testing.T) {
	if hidden, ok := os.LookupEnv(hiddenVar); ok {
		if hidden != "" {
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", hidden, "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
		}
		os.Stdout.WriteString("ready\n")
		io.Copy(io.Discard, os.Stdin)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root: it makes a mount namespace")
	}
	root := t.TempDir()
	for hidden, want := range map[string]bool{"": true, filepath.Dir(root): false, root: false} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSees$")
		cmd.Env = append(os.Environ(), hiddenVar+"="+hidden)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("the process says %q", lines.Text())
		}
		proc, err := state.FindProcess(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if got := (&process{Process: proc}).sees(root); got != want {
			t.Errorf("with %q hidden from it, process %s sees the root: %t", strings.TrimPrefix(hidden, root), strconv.Itoa(proc.Pid), got)
		}
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
