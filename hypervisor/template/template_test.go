package template

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vc-runtime/vc-runtime/hypervisor"
)

// fixture is a store, and a machine whose files exist.
type fixture struct {
	*testing.T
	store   *Store
	machine hypervisor.Config
	made    atomic.Int32
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	files := t.TempDir()
	path := func(name string) string { return filepath.Join(files, name) }
	f := &fixture{T: t, machine: hypervisor.Config{
		Name: "sb1", Binary: path("qemu"), Kernel: path("kernel"), Initrd: path("initrd"), MemoryMiB: 1,
	}}
	for _, p := range []string{f.machine.Binary, f.machine.Kernel, f.machine.Initrd} {
		f.must(os.WriteFile(p, []byte(p), 0o600))
	}
	var err error
	f.store, err = Open(filepath.Join(t.TempDir(), "cache/templates"))
	f.must(err)
	return f
}

func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) key() Key {
	f.Helper()
	key, err := NewKey(f.machine, "image")
	f.must(err)
	return key
}

// make is a Maker.
func (f *fixture) make(_ context.Context, t hypervisor.Template) (json.RawMessage, error) {
	f.made.Add(1)
	return json.RawMessage(`{"a":1}`), errors.Join(
		os.WriteFile(t.Memory, []byte("memory"), 0o600), os.WriteFile(t.State, []byte("state"), 0o600))
}

// get gets a template, which must work; made is whether that makes it.
func (f *fixture) get(key Key, made bool) *Entry {
	f.Helper()
	e, gotMade, err := f.store.Get(f.Context(), key, f.make)
	f.must(err)
	if gotMade != made {
		f.Errorf("made: %v, expected %v", gotMade, made)
	}
	return e
}

// names are those of the store's folder, without the two that say what goes on.
func (f *fixture) names() string {
	f.Helper()
	entries, err := os.ReadDir(f.store.dir)
	f.must(err)
	var names []string
	for _, e := range entries {
		if e.Name() != lockName && e.Name() != makingName {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

func TestGet(t *testing.T) {
	f := newFixture(t)
	if e, made, err := f.store.Get(t.Context(), f.key(), nil); !errors.Is(err, ErrNone) || made {
		t.Errorf("%v %v, %v: expected %v", e, made, err, ErrNone)
	}
	f.get(f.key(), true)
	f.machine.Name = "sb2"
	e := f.get(f.key(), false)
	var greeting struct{ A int }
	if err := json.Unmarshal(e.Greeting, &greeting); err != nil || greeting.A != 1 {
		t.Errorf("greeting %s, %v", e.Greeting, err)
	}
	for path, want := range map[string]os.FileMode{
		e.dir: os.ModeDir | 0o700, e.Memory: 0o400, e.State: 0o400, filepath.Join(e.dir, metaName): 0o400,
	} {
		info, err := os.Stat(path)
		f.must(err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
	}
}

// Whatever makes another machine needs another template.
func TestKey(t *testing.T) {
	tests := map[string]func(*fixture) Key{
		"memory":   func(f *fixture) Key { f.machine.MemoryMiB++; return f.key() },
		"CPUs":     func(f *fixture) Key { f.machine.CPUs++; return f.key() },
		"slots":    func(f *fixture) Key { f.machine.HotplugSlots++; return f.key() },
		"accel":    func(f *fixture) Key { f.machine.Accel = "other"; return f.key() },
		"argument": func(f *fixture) Key { f.machine.KernelArgs = []string{"x"}; return f.key() },
		"image":    func(f *fixture) Key { k := f.key(); k.ImageID = "other"; return k },
		"boot":     func(f *fixture) Key { k := f.key(); k.BootID = "other"; return k },
		"QEMU": func(f *fixture) Key {
			f.must(os.WriteFile(f.machine.Binary, []byte("a new version"), 0o600))
			return f.key()
		},
		"same": func(f *fixture) Key { f.machine.Name = "other"; return f.key() },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.get(f.key(), true)
			f.get(change(f), name != "same")
		})
	}
}

// Many that come at once make one template.
func TestRace(t *testing.T) {
	f := newFixture(t)
	key := f.key()
	slow := func(ctx context.Context, t hypervisor.Template) (json.RawMessage, error) {
		time.Sleep(20 * time.Millisecond)
		return f.make(ctx, t)
	}
	var users sync.WaitGroup
	for range 20 {
		users.Go(func() {
			if _, _, err := f.store.Get(t.Context(), key, slow); err != nil {
				t.Error(err)
			}
		})
	}
	users.Wait()
	if n := f.made.Load(); n != 1 {
		t.Errorf("made %d times", n)
	}
}

func TestDamage(t *testing.T) {
	tests := map[string]func(*fixture, *Entry){
		"memory cut":     func(f *fixture, e *Entry) { f.must(os.Truncate(e.Memory, 3)) },
		"memory written": func(f *fixture, e *Entry) { f.must(os.WriteFile(e.Memory, []byte("memorY"), 0)) },
		"memory gone":    func(f *fixture, e *Entry) { f.must(os.Remove(e.Memory)) },
		"state written":  func(f *fixture, e *Entry) { f.must(os.WriteFile(e.State, []byte("statE"), 0)) },
		"state gone":     func(f *fixture, e *Entry) { f.must(os.Remove(e.State)) },
		"meta cut":       func(f *fixture, e *Entry) { f.must(os.Truncate(filepath.Join(e.dir, metaName), 9)) },
		"meta gone":      func(f *fixture, e *Entry) { f.must(os.Remove(filepath.Join(e.dir, metaName))) },
		"all gone":       func(f *fixture, e *Entry) { f.must(os.RemoveAll(e.dir)) },
		"removed":        func(f *fixture, e *Entry) { f.must(f.store.Remove(f.Context(), e)) },
		"removed by many": func(f *fixture, e *Entry) {
			f.must(f.store.Remove(f.Context(), e))
			f.must(f.store.Remove(f.Context(), e))
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			e := f.get(f.key(), true)
			damage(f, e)
			f.get(f.key(), true)
			f.get(f.key(), false)
			if f.names() != filepath.Base(e.dir) {
				t.Errorf("left: %s", f.names())
			}
		})
	}
}

// Who cannot make a template does not try it at each start.
func TestMakeFails(t *testing.T) {
	f := newFixture(t)
	broken := errors.New("broken")
	fails := func(_ context.Context, t hypervisor.Template) (json.RawMessage, error) {
		f.must(os.WriteFile(t.Memory, nil, 0o600))
		return nil, broken
	}
	if _, _, err := f.store.Get(t.Context(), f.key(), fails); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, _, err := f.store.Get(t.Context(), f.key(), f.make); !errors.Is(err, ErrFailedBefore) {
		t.Errorf("got %v", err)
	}
	name, _ := f.key().name()
	if f.names() != name+failedSuffix {
		t.Errorf("left: %s", f.names())
	}
	old := time.Now().Add(-2 * retryAfter)
	f.must(os.Chtimes(filepath.Join(f.store.dir, name+failedSuffix), old, old))
	f.get(f.key(), true)
	if f.names() != name {
		t.Errorf("left: %s", f.names())
	}
}

// Nor does one whose template never worked.
func TestReject(t *testing.T) {
	f := newFixture(t)
	e := f.get(f.key(), true)
	f.must(f.store.Reject(t.Context(), e))
	if _, _, err := f.store.Get(t.Context(), f.key(), f.make); !errors.Is(err, ErrFailedBefore) {
		t.Errorf("got %v", err)
	}
	if f.names() != filepath.Base(e.dir)+failedSuffix {
		t.Errorf("left: %s", f.names())
	}
}

// TestCollectWhileMaking: who looks after the templates does not wait for a guest,
// and takes nothing away from who makes one.
func TestCollectWhileMaking(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	first, _, err := f.store.Get(ctx, f.key(), f.make)
	f.must(err)
	f.machine.MemoryMiB = 2
	_, made, err := f.store.Get(ctx, f.key(), func(ctx context.Context, to hypervisor.Template) (json.RawMessage, error) {
		if _, err := f.store.Collect(ctx); err != nil {
			t.Error(err)
		}
		if _, err := f.store.RemoveNamed(ctx, first.Name()); err != nil {
			t.Error(err)
		}
		return f.make(ctx, to)
	})
	f.must(err)
	if want, _ := f.key().name(); !made || f.names() != want {
		t.Errorf("made %v, left: %s", made, f.names())
	}
	// What a maker that was killed has left goes.
	f.must(os.Mkdir(filepath.Join(f.store.dir, asidePrefix+"1"), 0o700))
	if _, err := f.store.Collect(t.Context()); err != nil {
		t.Error(err)
	}
	if want, _ := f.key().name(); f.names() != want {
		t.Errorf("left: %s", f.names())
	}
}

// One that gives up leaves nothing, and the next one tries.
func TestMakeIsCancelled(t *testing.T) {
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	_, _, err := f.store.Get(ctx, f.key(), func(ctx context.Context, _ hypervisor.Template) (json.RawMessage, error) {
		cancel()
		return nil, ctx.Err()
	})
	if !errors.Is(err, context.Canceled) || f.names() != "" {
		t.Errorf("got %v, left: %s", err, f.names())
	}
	f.get(f.key(), true)
}

func TestCollect(t *testing.T) {
	f := newFixture(t)
	// Left by a maker that was killed.
	f.must(os.Mkdir(filepath.Join(f.store.dir, asidePrefix+"1"), 0o700))
	f.must(os.WriteFile(filepath.Join(f.store.dir, asidePrefix+"1", "memory"), nil, 0o600))
	other := f.key()
	other.BootID = "before"
	stale := f.get(other, true)
	var all []*Entry
	for range keep + 2 {
		f.machine.MemoryMiB++
		e := f.get(f.key(), true)
		used := time.Now().Add(time.Duration(f.machine.MemoryMiB-100) * time.Minute)
		f.must(os.Chtimes(e.dir, used, used))
		all = append(all, e)
	}
	gone := func(e *Entry) bool { _, err := os.Stat(e.dir); return err != nil }
	if !gone(stale) || !gone(all[0]) || gone(all[1]) || strings.Contains(f.names(), asidePrefix) {
		t.Errorf("left: %s", f.names())
	}
	f.must(os.WriteFile(f.machine.Kernel, []byte("another kernel"), 0o600))
	e := f.get(f.key(), true)
	if f.names() != filepath.Base(e.dir) {
		t.Errorf("left of another kernel: %s", f.names())
	}
}
