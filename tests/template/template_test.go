// Package template tests that sandboxes begin as clones of a saved machine,
// with real ones.
package template

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vc-runtime/vc-runtime/tests/testenv"
)

// suite is set by TestMain.
var suite *testenv.Suite

func TestMain(m *testing.M) { os.Exit(testenv.Main(m, &suite, nil)) }

// cached is a test with a cache of its own.
type cached struct {
	*testenv.Env
	templates string
}

func newCached(t *testing.T, over testenv.Settings) *cached {
	e := suite.New(t)
	e.NeedVM()
	cache := e.Path("cache")
	settings := testenv.Settings{"hypervisor.cache_dir": strconv.Quote(cache), "hypervisor.template": `"auto"`}
	for key, value := range over {
		settings[key] = value
	}
	return &cached{Env: e.Configured(settings), templates: filepath.Join(cache, "templates")}
}

// greet runs a container, which must work, and gives how long it took.
func (c *cached) greet() time.Duration {
	c.Helper()
	b := c.Bundle(testenv.Shell("echo hello"))
	begin := time.Now()
	res := c.OK("run", "--bundle", b.Dir, c.ID())
	if res.Stdout != "hello\n" {
		c.Error(res)
	}
	return time.Since(begin)
}

// folders are those of the templates, also of half-made ones.
func (c *cached) folders() []string {
	c.Helper()
	found, err := filepath.Glob(filepath.Join(c.templates, "*", ""))
	if err != nil {
		c.Fatal(err)
	}
	hidden, _ := filepath.Glob(filepath.Join(c.templates, ".aside-*"))
	var dirs []string
	for _, path := range append(found, hidden...) {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			dirs = append(dirs, path)
		}
	}
	return dirs
}

// only gives the folder of the one template.
func (c *cached) only() string {
	c.Helper()
	dirs := c.folders()
	if len(dirs) != 1 || strings.Contains(dirs[0], ".aside-") {
		c.Fatalf("templates: %q, expected one", dirs)
	}
	return dirs[0]
}

// Many first users make one template, and what they get of it is random and
// on time all the same.
func TestClonesDiffer(t *testing.T) {
	c := newCached(t, nil)
	const users = 20
	script := "cat /proc/sys/kernel/random/uuid; cat /proc/sys/kernel/random/boot_id; head -c 16 /dev/urandom | od -An -tx1; " +
		"grep stack /proc/self/maps; date +%s" // where the stack is comes from the same numbers as a process's canary
	var mu sync.Mutex
	seen := map[string]bool{}
	look := func(b *testenv.Bundle) {
		res := c.Do("run", "--bundle", b.Dir, c.ID())
		now := time.Now()
		lines := strings.Split(strings.TrimSpace(res.Stdout), "\n")
		if res.Code != 0 || len(lines) != 5 {
			t.Error(res)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, line := range lines[:4] {
			if seen[line] || len(line) < 30 {
				t.Errorf("%q is not random", line)
			}
			seen[line] = true
		}
		clock, err := strconv.ParseInt(lines[4], 10, 64)
		if off := now.Unix() - clock; err != nil || off < -2 || off > 10 {
			t.Errorf("the guest's clock is %q, %d s off: %v", lines[4], off, err)
		}
	}
	var all sync.WaitGroup
	for range users {
		b := c.Bundle(testenv.Shell(script))
		all.Go(func() { look(b) })
	}
	all.Wait()
	c.only()
	time.Sleep(3 * time.Second) // the template's clock stands still meanwhile
	look(c.Bundle(testenv.Shell(script)))
	t.Logf("a container in a clone takes %v", c.greet())
}

// A template that does not work costs a boot, no failure, and is replaced.
func TestDamagedTemplate(t *testing.T) {
	c := newCached(t, nil)
	c.greet()
	damage := map[string]func(dir string) error{
		"no state":     func(dir string) error { return os.Remove(filepath.Join(dir, "state")) },
		"short memory": func(dir string) error { return os.Truncate(filepath.Join(dir, "memory"), 4096) },
		"wrong state":  falsify,
	}
	for name, damage := range damage {
		t.Run(name, func(t *testing.T) {
			sub := &cached{Env: c.With(t), templates: c.templates}
			if err := damage(sub.only()); err != nil {
				t.Fatal(err)
			}
			sub.greet()
			sub.greet()
			sub.only()
		})
	}
}

// falsify replaces the state by something that QEMU does not take, and makes
// its digest fit.
func falsify(dir string) error {
	state := []byte(strings.Repeat("nonsense", 1000))
	if err := os.WriteFile(filepath.Join(dir, "state"), state, 0); err != nil {
		return err
	}
	path := filepath.Join(dir, "meta.json")
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var meta map[string]json.RawMessage
	if err := json.Unmarshal(b, &meta); err != nil {
		return err
	}
	sum := sha256.Sum256(state)
	meta["stateDigest"] = json.RawMessage(fmt.Sprintf("%q", hex.EncodeToString(sum[:])))
	if b, err = json.Marshal(meta); err != nil {
		return err
	}
	return os.WriteFile(path, b, 0)
}

// Whoever is killed while making a template is not missed.
func TestMakerKilled(t *testing.T) {
	c := newCached(t, nil)
	b := c.Bundle(testenv.Shell("echo hello"))
	id := c.ID()
	res := c.Call(testenv.Command{
		Args: []string{"run", "--bundle", b.Dir, id},
		Started: func(pid int) {
			limit := time.Now().Add(20 * time.Second)
			for len(c.folders()) == 0 {
				if time.Now().After(limit) {
					t.Error("no template is being made")
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Error(err)
			}
		},
	})
	if res.Code == 0 {
		t.Error(res)
	}
	c.Do("delete", "--force", id)
	c.greet()
	c.only()
}

// TestCommand makes, lists, removes and collects.
func TestCommand(t *testing.T) {
	c := newCached(t, nil)
	list := func() []struct {
		Key     string
		InUse   bool
		Size    int64
		Useless string
	} {
		t.Helper()
		var all []struct {
			Key     string
			InUse   bool
			Size    int64
			Useless string
		}
		if err := json.Unmarshal([]byte(c.OK("template", "ls", "-f", "json").Stdout), &all); err != nil {
			t.Fatal(err)
		}
		return all
	}
	if len(list()) != 0 {
		t.Errorf("%+v", list())
	}
	key := strings.TrimSpace(c.OK("template", "create").Stdout)
	if again := strings.TrimSpace(c.OK("template", "create").Stdout); again != key || filepath.Base(c.only()) != key {
		t.Errorf("keys %s and %s, folder %s", key, again, c.only())
	}
	// Its guest has run a container already.
	if meta := c.Read(filepath.Join(c.only(), "meta.json")); !strings.Contains(meta, `"greeting"`) || strings.Contains(meta, `"warning"`) {
		t.Errorf("the template: %s", meta)
	}
	// A container is a clone of it, and that shows.
	sleeper := c.Started(nil, testenv.Args("sleep", "1000"))
	if all := list(); len(all) != 1 || all[0].Key != key || !all[0].InUse || all[0].Useless != "" || all[0].Size < 1<<20 {
		t.Errorf("%+v", all)
	}
	if out := c.OK("template", "gc").Stdout; out != "" {
		t.Errorf("collected %q", out)
	}
	// Its template can go all the same.
	c.OK("template", "rm", key[:10])
	if len(c.folders()) != 0 {
		t.Errorf("left: %q", c.folders())
	}
	c.OK("exec", sleeper.ID, "true")
	sleeper.DeleteForced()
	c.Fails("no such template", "template", "rm", key)
	// One that does not work any more is made again.
	c.OK("template", "create")
	if err := falsify(c.only()); err != nil {
		t.Fatal(err)
	}
	c.OK("template", "create")
	c.greet()
	// One that nobody can use goes.
	if err := os.Remove(filepath.Join(c.only(), "state")); err != nil {
		t.Fatal(err)
	}
	if out := strings.TrimSpace(c.OK("template", "gc").Stdout); out != key || len(c.folders()) != 0 {
		t.Errorf("collected %q, left %q", out, c.folders())
	}
}

// TestOff boots each machine.
func TestOff(t *testing.T) {
	c := newCached(t, testenv.Settings{"hypervisor.template": `"off"`})
	c.greet()
	if dirs := c.folders(); len(dirs) != 0 {
		t.Errorf("there are %q", dirs)
	}
}
