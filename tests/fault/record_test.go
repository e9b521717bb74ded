package fault

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/state"
	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// records are the files that tell what has to be cleaned, below the root.
func records(id string) map[string]string {
	return map[string]string{"container": "containers/" + id + "/state.json", "sandbox": "sandboxes/" + id + "/sandbox.json"}
}

// damages are what becomes of a record's text.
var damages = map[string]func(string) string{
	"truncated": func(text string) string { return text[:len(text)/2] },
	"empty":     func(string) string { return "" },
	"garbage":   func(text string) string { return strings.Repeat("\xff\x00", len(text)/2) },
}

// TestDamagedRecord has a record of a running container that cannot be read:
// that is said, the others are not affected, and everything is cleaned all the same.
func TestDamagedRecord(t *testing.T) {
	warm(t)
	for _, which := range []string{"container", "sandbox"} {
		for how, damage := range damages {
			if !everything() && how != map[string]string{"container": "truncated", "sandbox": "garbage"}[which] {
				continue
			}
			t.Run(which+"/"+how, func(t *testing.T) {
				w := newWorld(t)
				c := w.Started(nil, testenv.Args("sleep", "1000"))
				other := w.Container(nil)
				path := filepath.Join(w.Root, records(c.ID)[which])
				w.replace(path, damage(w.Read(path)))
				if which == "container" {
					w.Fails(path, "state", c.ID)
				}
				if res := w.OK("list", "--quiet"); !strings.Contains(res.Stdout, other.ID) {
					t.Errorf("another container is not listed: %s", res)
				}
				if which == "sandbox" {
					w.IsStatus(c.ID, "running")
					if found := w.doctor("--fix"); len(found) != 1 || found[0].Name != path || found[0].Fixed {
						t.Errorf("doctor has found %v, expected the record, and nothing to do", found)
					}
					w.OK("exec", c.ID, "true")
				}
				w.OK("delete", "--force", c.ID)
				w.IsStatus(other.ID, "created")
				other.DeleteForced()
				w.isEmpty()
				if err := w.quiet(); err != nil {
					t.Error(err)
				}
				if err := c.Bundle.Overlay.Cycle(); err != nil {
					t.Error(err)
				}
				if res := w.call("create", "--bundle", c.Bundle.Dir, c.ID); res.Code != 0 {
					t.Errorf("the same again: %s", res)
				}
				w.OK("delete", "--force", c.ID)
			})
		}
	}
}

// TestLaterRecord has records of a later version, which knows what else there is to
// clean: nobody touches them, nor what they are about.
func TestLaterRecord(t *testing.T) {
	warm(t)
	w := newWorld(t)
	c := w.Started(nil, testenv.Args("sleep", "1000"))
	for which, name := range records(c.ID) {
		path := filepath.Join(w.Root, name)
		text := w.Read(path)
		later := `{"version": 99, "new": true}`
		w.replace(path, later)
		w.Fails("version 99", "delete", "--force", c.ID)
		w.Equal(which, w.Read(path), later)
		w.replace(path, text)
		w.IsStatus(c.ID, "running")
	}
	c.DeleteForced()
}

// TestReboot has a container of an earlier boot. The pids in its records are
// somebody else's now, and with the same start time.
func TestReboot(t *testing.T) {
	warm(t)
	w := newWorld(t)
	c := w.Started(nil, testenv.Args("sleep", "1000"))
	pids := w.SandboxPids(c.ID)
	for _, pid := range []int{pids.Monitor, pids.VM, c.Pid} {
		w.Signal(pid, unix.SIGKILL)
	}
	testenv.Eventually(w, limit, w.quiet)
	stranger := exec.Command("sleep", "100000")
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stranger.Process.Kill(); stranger.Wait() }()
	proc, err := state.FindProcess(stranger.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range records(c.ID) {
		w.reboot(filepath.Join(w.Root, name), proc)
	}
	if st := w.State(c.ID); st.Status != "stopped" || st.Pid != 0 {
		t.Errorf("%s, pid %d", st.Status, st.Pid)
	}
	w.Fails("stopped", "start", c.ID)
	w.OK("delete", c.ID)
	w.isEmpty()
	if !proc.Alive() || proc.Ending() {
		t.Error("a process of this boot was killed for a record of an earlier one")
	}
	if res := w.call("create", "--bundle", c.Bundle.Dir, c.ID); res.Code != 0 {
		t.Errorf("the same again: %s", res)
	}
	w.OK("delete", "--force", c.ID)
}

// reboot makes a record one of an earlier boot, whose processes' pids are another
// one's now.
func (w *world) reboot(path string, now state.Process) {
	w.Helper()
	var rec map[string]any
	if err := json.Unmarshal([]byte(w.Read(path)), &rec); err != nil {
		w.Fatal(err)
	}
	w.Equal("boot", rec["bootID"], any(strings.TrimSpace(w.Read("/proc/sys/kernel/random/boot_id"))))
	rec["bootID"] = "an-earlier-one"
	for _, name := range []string{"shim", "creator", "monitor", "vm"} {
		if rec[name] != nil {
			rec[name] = now
		}
	}
	b, err := json.Marshal(rec)
	if err != nil {
		w.Fatal(err)
	}
	w.replace(path, string(b))
}

// replace writes a file anew.
func (w *world) replace(path, text string) {
	w.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.Fatal(fmt.Errorf("replace a record: %w", err))
	}
}
