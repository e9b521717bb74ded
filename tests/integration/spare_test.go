package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// spareLimit is how long the pool may take to be as it should be.
const spareLimit = 20 * time.Minute

// allSpares reports whether all that has to do with spares is wanted, and not
// only what is quick (make fault).
func allSpares() bool { return os.Getenv("VC_SPARES") == "all" }

// pool is a test with spares.
type pool struct{ *testenv.Env }

func newPool(t *testing.T, spares int, over testenv.Settings) *pool {
	e := suite.New(t)
	e.NeedVM()
	settings := testenv.Settings{
		"hypervisor.spares": strconv.Itoa(spares), "hypervisor.spare_delay": `"0s"`,
		// On a busy host the last in the queue may have to wait long.
		"hypervisor.boot_timeout": `"600s"`, "runtime.create_timeout": `"1200s"`, "runtime.call_timeout": `"600s"`,
	}
	for key, value := range over {
		settings[key] = value
	}
	p := &pool{e.Configured(settings)}
	t.Cleanup(func() {
		p.OK("spare", "rm")
		if left := p.entries(); len(left) != 0 {
			t.Errorf("left behind of spares: %q", left)
		}
	})
	return p
}

// spareState is one of spare ls.
type spareState struct {
	ID, State   string
	Monitor, VM int
	Template    string
}

func (p *pool) list() []spareState {
	p.Helper()
	var all []spareState
	if err := json.Unmarshal([]byte(p.OK("spare", "ls", "--format", "json").Stdout), &all); err != nil {
		p.Fatal(err)
	}
	return all
}

// entries are the folders of spares.
func (p *pool) entries() []string {
	all, _ := filepath.Glob(filepath.Join(p.Root, "spares", "*", ""))
	var dirs []string
	for _, path := range all {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			dirs = append(dirs, path)
		}
	}
	return dirs
}

// ready waits until there are so many spares that can be taken, and gives them.
func (p *pool) ready(n int) []spareState {
	p.Helper()
	var got []spareState
	testenv.Eventually(p, spareLimit, func() error {
		got = got[:0]
		all := p.list()
		for _, s := range all {
			if s.State == "ready" {
				got = append(got, s)
			}
		}
		if len(got) != n {
			log, _ := os.ReadFile(filepath.Join(p.Root, "spares", "log"))
			return fmt.Errorf("%d spares are ready, expected %d: %v; log: %s", len(got), n, all, log)
		}
		return nil
	})
	return got
}

// fill makes the pool full.
func (p *pool) fill(n int) []spareState {
	p.Helper()
	p.OK("spare", "create")
	return p.ready(n)
}

func (p *pool) cgroupOf(pid int) string {
	p.Helper()
	return p.Read("/proc/" + strconv.Itoa(pid) + "/cgroup")
}

// cgroupsOf are the cgroups of a spare.
func cgroupsOf(id string) []string {
	var found []string
	for _, pattern := range []string{"/sys/fs/cgroup/vc-runtime-spare-", "/sys/fs/cgroup/*/vc-runtime-spare-"} {
		some, _ := filepath.Glob(pattern + id)
		found = append(found, some...)
	}
	return found
}

// A create takes the spare, whose processes are the sandbox's in every respect
// from then on, and has another one made.
func TestSpareAdopted(t *testing.T) {
	p := newPool(t, 1, nil)
	was := p.fill(1)[0]
	if servers := serversIn(filepath.Join(p.Root, "spares")); len(servers) != 0 {
		t.Errorf("of its rehearsal the spare has the file servers %v left", servers)
	}
	if out := p.OK("list", "--quiet").Stdout; out != "" {
		t.Errorf("a spare is listed as a container: %q", out)
	}
	p.OK("doctor")
	c := p.Container(nil, testenv.Args("sleep", "1000"))
	id, shim := c.ID, c.Pid
	if now := p.SandboxPids(id); now.Monitor != was.Monitor || now.VM != was.VM {
		t.Errorf("the sandbox has %v, the spare was %v", now, was)
	}
	for _, other := range []int{was.Monitor, was.VM} {
		if of := p.cgroupOf(other); of != p.cgroupOf(shim) {
			t.Errorf("process %d is in the cgroups %s, the shim in %s", other, of, p.cgroupOf(shim))
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/cgroup", other))
		for _, path := range tasks {
			if b, err := os.ReadFile(path); err == nil && string(b) != p.cgroupOf(shim) {
				t.Errorf("%s: %s", path, b)
			}
		}
	}
	testenv.Eventually(t, spareLimit, func() error {
		if left := cgroupsOf(was.ID); len(left) != 0 {
			return fmt.Errorf("the spare's cgroups are still there: %q", left)
		}
		return nil
	})
	if score := strings.TrimSpace(p.Read(fmt.Sprintf("/proc/%d/oom_score_adj", was.VM))); score == "1000" {
		t.Error("the machine's OOM score is a spare's")
	}
	if next := p.ready(1)[0]; next.ID == was.ID || next.Monitor == was.Monitor {
		t.Errorf("the spare %v is in the pool again: %v", was, next)
	}
	p.OK("doctor", "--fix") // leaves both alone
	c.Start()
	// Of the rehearsal nothing is left in the guest: one device is there, its own.
	if out := p.OK("exec", id, "sh", "-c", "ls -d /sys/bus/virtio/drivers/virtiofs/virtio* | wc -l; cat /proc/self/mountinfo").Stdout; !strings.HasPrefix(out, "1\n") || strings.Contains(out, "rehearsal") {
		t.Errorf("the guest shows %s", out)
	}
	p.OK("kill", id, "KILL")
	c.Delete()
	p.Await(was.Monitor, time.Minute)

	trace := p.Path("trace")
	res := p.OK("--trace", trace, "run", "--bundle", p.Bundle(testenv.Shell("echo hello")).Dir, p.ID())
	if res.Stdout != "hello\n" || !strings.Contains(p.Read(trace), `"adopt the spare"`) {
		t.Errorf("no adoption in the trace of %s", res)
	}
}

// serversIn are the file servers that share something of a folder.
func serversIn(dir string) (pids []int) {
	for _, pid := range testenv.Processes("virtiofsd") {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Creates at the same time never share a spare, and those that find none start
// a machine; none waits for who makes spares. What is random in one is not in
// another, and clocks are right.
func TestSparesShared(t *testing.T) {
	p := newPool(t, 2, nil)
	was := p.fill(2)
	time.Sleep(3 * time.Second) // in which a clock may go wrong
	const creates = 4
	script := "cat /proc/sys/kernel/random/uuid; head -c 16 /dev/urandom | od -An -tx1; date +%s; hostname; ls /run/vc 2>&1; ls /sys/fs/cgroup"
	var mu sync.Mutex
	var all sync.WaitGroup
	monitors, seen := map[int]bool{}, map[string]bool{}
	var ids []string
	lock := p.lock()
	for range creates {
		b := p.Bundle(testenv.Args("sleep", "1000"), func(s *specs.Spec) { s.Hostname = "mine" })
		all.Go(func() {
			c, res := p.TryCreate(b, nil)
			if res.Code != 0 {
				t.Error(res)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			monitors[p.SandboxPids(c.ID).Monitor] = true
			ids = append(ids, c.ID)
		})
	}
	all.Wait()
	if all := p.list(); len(all) != 0 {
		t.Errorf("spares were made in spite of the lock: %v", all)
	}
	lock.Close()
	if t.Failed() {
		return
	}
	if len(monitors) != creates || !monitors[was[0].Monitor] || !monitors[was[1].Monitor] {
		t.Errorf("%d containers have the monitors %v; the spares were %v", creates, monitors, was)
	}
	for _, id := range ids {
		p.OK("start", id)
		before := time.Now()
		lines := strings.Split(p.OK("exec", id, "sh", "-c", script).Stdout, "\n")
		for _, line := range lines[:2] {
			if seen[line] || len(line) < 30 {
				t.Errorf("%q is not random", line)
			}
			seen[line] = true
		}
		clock, err := strconv.ParseInt(lines[2], 10, 64)
		if off := clock - before.Unix(); err != nil || off < -2 || time.Unix(clock, 0).After(time.Now().Add(2*time.Second)) {
			t.Errorf("the guest's clock is %q, %d s off: %v", lines[2], off, err)
		}
		if lines[3] != "mine" || strings.Contains(strings.Join(lines, " "), "rehearsal") {
			t.Errorf("the guest shows %q", lines)
		}
	}
}

// lock has whoever makes spares wait.
func (p *pool) lock() *os.File {
	p.Helper()
	f, err := os.Open(filepath.Join(p.Root, "spares", "lock"))
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		p.Fatal(err)
	}
	p.Cleanup(func() { f.Close() })
	return f
}

// A spare of another configuration is not taken, and is ended by who wants
// others.
func TestSpareOfOtherMachine(t *testing.T) {
	if !allSpares() {
		t.Skip("NOT RUN: needs VC_SPARES=all (`make fault`): boots a machine for a template of its own, which takes long where it is emulated")
	}
	p := newPool(t, 1, nil)
	was := p.fill(1)[0]
	other := &pool{p.Configured(testenv.Settings{"hypervisor.spares": "1", "hypervisor.memory": `"320M"`})}
	if all := other.list(); len(all) != 1 || all[0].State != "other" {
		t.Errorf("the spare is for this configuration too: %v", all)
	}
	c := other.Started(nil, testenv.Args("sleep", "1000"))
	if now := p.SandboxPids(c.ID); now.Monitor == was.Monitor {
		t.Error("the spare was taken")
	}
	other.ready(1)
	if all := other.list(); len(all) != 1 || all[0].ID == was.ID {
		t.Errorf("the other spare is still there: %v", all)
	}
}

// gone waits until nothing is left of a spare.
func (p *pool) gone(was spareState) {
	p.Helper()
	testenv.Eventually(p, spareLimit, func() error {
		if testenv.Alive(was.Monitor) || testenv.Alive(was.VM) {
			return fmt.Errorf("the spare %v lives", was)
		}
		if left := cgroupsOf(was.ID); len(left) != 0 {
			return fmt.Errorf("left behind: %q", left)
		}
		for _, dir := range p.entries() {
			if strings.HasSuffix(dir, was.ID) {
				return fmt.Errorf("left behind: %s", dir)
			}
		}
		return nil
	})
}

// A spare that has died, or hangs, fails no create.
func TestSpareBroken(t *testing.T) {
	p := newPool(t, 1, testenv.Settings{"runtime.teardown_timeout": `"5s"`})
	p.fill(1)
	for _, tt := range []struct {
		name   string
		victim func(spareState) int
		by     unix.Signal
		short  bool
	}{
		{"machine dead", spareState.vm, unix.SIGKILL, true},
		{"monitor dead", spareState.monitor, unix.SIGKILL, false},
		{"machine hung", spareState.vm, unix.SIGSTOP, false}, // as slow as the timeout
		{"monitor hung", spareState.monitor, unix.SIGSTOP, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !tt.short && !allSpares() {
				t.Skip("NOT RUN: needs VC_SPARES=all (`make fault`): waits out timeouts")
			}
			p := &pool{p.With(t)}
			was := p.ready(1)[0]
			p.Signal(tt.victim(was), tt.by)
			c := p.Started(nil, testenv.Args("sleep", "1000"))
			if now := p.SandboxPids(c.ID); now.Monitor == was.Monitor {
				t.Error("the spare was taken")
			}
			p.OK("exec", c.ID, "true")
			c.DeleteForced()
			p.gone(was)
		})
	}
}

func (s spareState) vm() int      { return s.VM }
func (s spareState) monitor() int { return s.Monitor }

// doctor names a spare whose processes have died, and removes what is left.
func TestSpareOrphaned(t *testing.T) {
	p := newPool(t, 1, nil)
	was := p.fill(1)[0]
	p.Signal(was.Monitor, unix.SIGKILL)
	p.Await(was.Monitor, time.Minute)
	p.Await(was.VM, time.Minute) // which dies with it
	if res := p.Do("doctor"); res.Code == 0 || !strings.Contains(res.Stdout, was.ID) {
		t.Errorf("the dead spare %s is no orphan: %s", was.ID, res)
	}
	p.Do("doctor", "--fix")
	p.OK("doctor")
	p.gone(was)
}

// A spare that nobody needs ends by itself, and leaves nothing. However soon it
// does, nobody makes another one before the next create.
func TestSpareUnused(t *testing.T) {
	p := newPool(t, 1, testenv.Settings{"hypervisor.spare_timeout": `"1ms"`})
	p.OK("spare", "create")
	p.Started(nil, testenv.Args("sleep", "1000")).DeleteForced()
	testenv.Eventually(t, spareLimit, func() error {
		if dirs := p.entries(); len(dirs) != 0 {
			return fmt.Errorf("still there: %q", dirs)
		}
		// Its process ends after its folder; and the filler may only begin.
		if res := p.Do("doctor"); res.Code != 0 {
			return fmt.Errorf("%s", res)
		}
		return nil
	})
}

// The next spare takes no CPU from the container that starts: it is begun after a
// while.
func TestSpareDelay(t *testing.T) {
	p := newPool(t, 1, testenv.Settings{"hypervisor.spare_delay": `"60s"`})
	p.OK("spare", "create")
	c := p.Started(nil, testenv.Args("sleep", "1000"))
	p.OK("exec", c.ID, "true")
	c.DeleteForced()
	fillers := p.fillers()
	if made := p.entries(); len(fillers) != 1 || len(made) != 0 {
		t.Errorf("the fillers are %v, and there are the spares %q; expected one filler that waits", fillers, made)
	}
	for _, pid := range fillers {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		p.Await(pid, time.Minute)
	}
}

// fillers are the processes that make the spares of this root.
func (p *pool) fillers() (pids []int) {
	for _, pid := range testenv.Processes("vc-runtime") {
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && string(b) == "vc-runtime\x00spares\x00"+p.Root+"\x00" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Without spares nothing is made for them, nor looked at: the trace of a create
// has no word of it, the state no folder.
func TestSparesOff(t *testing.T) {
	e := suite.New(t)
	e.NeedVM()
	trace := e.Path("trace")
	e.OK("--trace", trace, "run", "--bundle", e.Bundle(testenv.Shell("true")).Dir, e.ID())
	for _, word := range []string{"spare", "filler"} {
		if strings.Contains(e.Read(trace), word) {
			t.Errorf("the trace of a run without spares says %q", word)
		}
	}
	if _, err := os.Lstat(filepath.Join(e.Root, "spares")); !os.IsNotExist(err) {
		t.Errorf("a folder for spares: %v", err)
	}
}

// Who removes a template ends its spares; one whose template has gone in another
// way is not taken.
func TestSpareOutlivesTemplate(t *testing.T) {
	if !allSpares() {
		t.Skip("NOT RUN: needs VC_SPARES=all (`make fault`): boots machines for templates of its own, which takes long where they are emulated")
	}
	dir := t.TempDir()
	p := newPool(t, 1, testenv.Settings{"hypervisor.cache_dir": strconv.Quote(dir)})
	was := p.fill(1)[0]
	templates, err := filepath.Glob(filepath.Join(dir, "templates", was.Template))
	if err != nil || len(templates) != 1 {
		t.Fatalf("templates: %q %v", templates, err)
	}
	aside := filepath.Join(t.TempDir(), "aside")
	if err := os.Rename(templates[0], aside); err != nil {
		t.Fatal(err)
	}
	c := p.Started(nil, testenv.Args("sleep", "1000"))
	if now := p.SandboxPids(c.ID); now.Monitor == was.Monitor {
		t.Error("the spare was taken")
	}
	p.gone(was)
	next := p.ready(1)[0]
	p.OK("template", "rm", next.Template)
	p.gone(next)
	p.OK("exec", c.ID, "true")
}
