package template

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// list gives what List says of the store, by name.
func (f *fixture) list() map[string]Info {
	f.Helper()
	all, err := f.store.List()
	f.must(err)
	byName := map[string]Info{}
	for _, info := range all {
		byName[info.Name] = info
	}
	return byName
}

func TestList(t *testing.T) {
	f := newFixture(t)
	good := f.get(f.key(), true)
	f.machine.MemoryMiB = 2
	damaged := f.get(f.key(), true)
	f.machine.MemoryMiB = 3
	stale := f.get(f.key(), true)
	f.must(os.Truncate(damaged.Memory, 1))
	meta, err := os.ReadFile(filepath.Join(stale.dir, metaName))
	f.must(err)
	meta = bytes.Replace(meta, []byte(`"bootId": "`), []byte(`"bootId": "x`), 1)
	f.must(os.WriteFile(filepath.Join(stale.dir, metaName), meta, 0))
	f.must(os.Mkdir(filepath.Join(f.store.dir, asidePrefix+"1"), 0o700))
	used := time.Now().Add(-time.Hour)
	f.must(os.Chtimes(good.dir, used, used))

	got := f.list()
	if len(got) != 3 {
		t.Errorf("%d templates", len(got))
	}
	g := got[good.Name()]
	if g.Useless != "" || g.InUse || g.Machine.MemoryMiB != 1 || g.Size <= 0 || time.Since(g.Created) > time.Minute || !g.Used.Equal(used) {
		t.Errorf("good: %+v", g)
	}
	if d := got[damaged.Name()]; d.Useless != "damaged" {
		t.Errorf("damaged: %+v", d)
	}
	if s := got[stale.Name()]; s.Useless != "of an earlier boot of the host" {
		t.Errorf("stale: %+v", s)
	}
	if g := f.list()[good.Name()]; !g.Used.Equal(used) {
		t.Error("to be listed counts as a use")
	}
}

// What is in use is told, and not collected however old it is.
func TestInUse(t *testing.T) {
	f := newFixture(t)
	e := f.get(f.key(), true)
	old := time.Now().Add(-2 * keepFor)
	first, err := e.Use()
	f.must(err)
	second, err := e.Use()
	f.must(err)
	f.must(first.Close())
	f.must(os.Chtimes(e.dir, old, old))
	if !f.list()[e.Name()].InUse {
		t.Error("not in use")
	}
	if removed, err := f.store.Collect(t.Context()); err != nil || len(removed) != 0 {
		t.Errorf("collected %q, %v", removed, err)
	}
	f.must(second.Close())
	if f.list()[e.Name()].InUse {
		t.Error("still in use")
	}
	if removed, err := f.store.Collect(t.Context()); err != nil || !slices.Equal(removed, []string{e.Name()}) {
		t.Errorf("collected %q, %v", removed, err)
	}
	if f.names() != "" {
		t.Errorf("left: %s", f.names())
	}
}

func TestRemoveNamed(t *testing.T) {
	f := newFixture(t)
	a := f.get(f.key(), true)
	f.machine.MemoryMiB = 2
	b := f.get(f.key(), true)
	for _, name := range []string{"", "x", "../" + a.Name()} {
		if _, err := f.store.RemoveNamed(t.Context(), name); !errors.Is(err, ErrUnknown) {
			t.Errorf("%q: %v", name, err)
		}
	}
	// Both names begin so.
	f.must(os.Rename(b.dir, filepath.Join(f.store.dir, a.Name()[:4]+"x")))
	if _, err := f.store.RemoveNamed(t.Context(), a.Name()[:4]); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("two of the name: %v", err)
	}
	got, err := f.store.RemoveNamed(t.Context(), a.Name()[:8])
	if err != nil || got != a.Name() || f.names() != a.Name()[:4]+"x" {
		t.Errorf("removed %q, %v, left: %s", got, err, f.names())
	}
}

// Who asks for a template in so many words does not wait until it is tried
// again.
func TestForgive(t *testing.T) {
	f := newFixture(t)
	f.must(f.store.Reject(t.Context(), f.get(f.key(), true)))
	f.must(f.store.Forgive(f.key()))
	f.must(f.store.Forgive(f.key()))
	f.get(f.key(), true)
}
