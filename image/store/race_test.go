package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// die ends a lease as the death of its process does: the lock goes, all else
// stays.
func die(t *testing.T, l *Lease) {
	t.Helper()
	if err := l.file.Close(); err != nil {
		t.Fatal(err)
	}
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// metaFree reports whether the store's lock could be taken right now.
func metaFree(t *testing.T, s *Store, how int) bool {
	t.Helper()
	f, err := openLock(s.path(metaFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	err = tryFlock(f, how)
	if err != nil && !errors.Is(err, errBusy) {
		t.Fatal(err)
	}
	return err == nil
}

// needFunc is Lease.need, or a wrong one. collect is to be called at the worst
// moment.
type needFunc func(ctx context.Context, l *Lease, collect func() error, r resource) (bool, error)

// rightNeed names, then looks. What happens at any moment that the store's
// lock leaves to others makes no difference.
func rightNeed(ctx context.Context, l *Lease, collect func() error, r resource) (bool, error) {
	there, err := l.need(ctx, r)
	if err != nil {
		return false, err
	}
	return there[0], collect()
}

// checkFirst is the mutant: it looks before it names, as the early Stat did
// from which "parent snapshot does not exist" came.
func checkFirst(ctx context.Context, l *Lease, collect func() error, r resource) (bool, error) {
	there, err := l.s.has(r)
	if err := errors.Join(err, collect()); err != nil {
		return false, err
	}
	_, err = l.need(ctx, r)
	return there, err
}

// orphanRace is the race: a process commits a layer and is killed; the retry
// finds the layer, and the collector runs. It gives an error if the retry relies on
// a layer that is gone.
func orphanRace(t *testing.T, need needFunc) error {
	ctx := t.Context()
	s := newStore(t, Options{})
	one := newSample("one", "base", "top")
	base := one.img.Stack()[0]

	first := newLease(t, s)
	if err := one.addLayer(ctx, first, base); err != nil {
		t.Fatal(err)
	}
	path, err := s.LayerPath(base.ID)
	if err != nil {
		t.Fatal(err)
	}
	was := inode(t, path)
	die(t, first)

	retry := newLease(t, again(t, s, nil))
	collector := again(t, s, nil)
	there, err := need(ctx, retry, func() error {
		_, err := collector.GC(ctx, GCOptions{})
		return err
	}, layerOf(base.ID))
	if err != nil {
		t.Fatal(err)
	}
	if !there {
		return errors.New("the layer was not found: nothing was raced for")
	}
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("the retry relies on a layer that was taken: %w", err)
	}
	if err := one.addWith(ctx, retry); err != nil {
		return err
	}
	one.intact(t, s)
	if is := inode(t, path); is != was {
		return fmt.Errorf("inode %d instead of %d: the layer was made again", is, was)
	}
	return nil
}

func TestRetryAfterKillAgainstCollector(t *testing.T) {
	if err := orphanRace(t, rightNeed); err != nil {
		t.Error(err)
	}
}

// The test above is worth something: it fails for what looks before it names.
func TestRetryAfterKillFindsTheMutant(t *testing.T) {
	if err := orphanRace(t, checkFirst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("looking before naming was not found out: %v", err)
	}
}

// Naming and looking are one section under the store's lock: at no step of it
// can the collector run.
func TestNamingAndLookingExcludeTheCollector(t *testing.T) {
	s := newStore(t, Options{})
	var seen []string
	l := newLease(t, again(t, s, func(step string) error {
		switch step {
		case "lease.pin:before", "lease.pin:after", "lease.check:before", "lease.check:after":
			seen = append(seen, step)
			if metaFree(t, s, unix.LOCK_EX) {
				t.Errorf("%s: the collector could run", step)
			}
		}
		return nil
	}))
	if _, err := l.HasLayer(t.Context(), digest.FromString("x")); err != nil {
		t.Fatal(err)
	}
	if want := []string{"lease.pin:before", "lease.pin:after", "lease.check:before", "lease.check:after"}; !slices.Equal(seen, want) {
		t.Errorf("steps %v, want %v", seen, want)
	}
	if !metaFree(t, s, unix.LOCK_EX) {
		t.Error("the store is still locked")
	}
}

// The converse: the collector has marked and is about to take the layer. The
// retry waits, finds it gone, and makes it again.
func TestCollectorBeforeRetry(t *testing.T) {
	ctx := t.Context()
	s := newStore(t, Options{})
	one := newSample("one", "base", "top")
	first := newLease(t, s)
	if err := one.addLayer(ctx, first, one.img.Stack()[0]); err != nil {
		t.Fatal(err)
	}
	die(t, first)

	waits, marked, goOn := make(chan struct{}), make(chan struct{}), make(chan struct{})
	armed := false
	retry := newLease(t, again(t, s, func(step string) error {
		if armed && step == "meta.shared:before" {
			armed = false
			close(waits)
		}
		return nil
	}))
	armed = true
	collector := again(t, s, func(step string) error {
		if step == "gc.marked:before" {
			close(marked)
			<-goOn
		}
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		r, err := collector.GC(ctx, GCOptions{})
		if err != nil || r.Layers != 1 {
			t.Errorf("the collector: %+v, %v", r, err)
		}
	})
	<-marked
	wg.Go(func() {
		if err := one.addWith(ctx, retry); err != nil {
			t.Errorf("the retry: %v", err)
		}
	})
	<-waits
	if metaFree(t, s, unix.LOCK_SH) {
		t.Error("the retry need not wait for the collector")
	}
	if there, err := s.has(layerOf(one.img.Layers[0].ChainID)); !there || err != nil {
		t.Errorf("the layer has gone too early: %v, %v", there, err)
	}
	close(goOn)
	wg.Wait()
	one.intact(t, s)
	clean(t, s)
}

// At every single step of a pull: all images are removed and the collector
// runs. Where the step holds the store's lock, it runs when that is free.
func TestPruneAtEveryStepOfAPull(t *testing.T) {
	steps := countSteps(t, func(s *Store) { newSample("one", "base", "top").mustAdd(t, s).Close() })
	for n := range steps {
		s := newStore(t, Options{})
		pruner := again(t, s, nil)
		newSample("other", "base").mustAdd(t, pruner).Close()
		var pruned chan error
		var at string
		count := 0
		puller := again(t, s, func(step string) error {
			if count++; count != n+1 {
				return nil
			}
			at = step
			pruned = make(chan error, 1)
			go func() { pruned <- prune(context.WithoutCancel(t.Context()), pruner) }()
			if metaFree(t, s, unix.LOCK_EX) {
				err := <-pruned
				pruned <- err
			}
			return nil
		})
		count = 0
		one := newSample("one", "base", "top")
		if l, err := one.add(t.Context(), puller); err != nil {
			t.Errorf("prune at %s: %v", at, err)
		} else {
			one.content(t, s)
			l.Close()
		}
		if pruned == nil {
			break // the count is of a run with more to make
		}
		if err := <-pruned; err != nil {
			t.Errorf("prune at %s: %v", at, err)
		}
		clean(t, s)
	}
}

// prune removes all images, and what is garbage then.
func prune(ctx context.Context, s *Store) error {
	images, err := s.Images()
	if err != nil {
		return err
	}
	for _, img := range images {
		if err := s.RemoveImage(ctx, img.Name); err != nil && !errors.Is(err, ErrNotExist) {
			return err
		}
	}
	_, err = s.GC(ctx, GCOptions{})
	return err
}

// countSteps counts the calls of the hook in do.
func countSteps(t *testing.T, do func(*Store)) int {
	t.Helper()
	var n atomic.Int64
	s := newStore(t, Options{})
	do(again(t, s, func(string) error {
		n.Add(1)
		return nil
	}))
	if n.Load() == 0 {
		t.Fatal("no steps")
	}
	return int(n.Load())
}

// Eight at once: everything is fetched and made once.
func TestWorkIsDoneOnce(t *testing.T) {
	s := newStore(t, Options{})
	one := newSample("one", "base", "top")
	var fetched, made sync.Map
	count := func(m *sync.Map, d digest.Digest) {
		n, _ := m.LoadOrStore(d, new(atomic.Int64))
		n.(*atomic.Int64).Add(1)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			l := newLease(t, again(t, s, nil))
			for _, layer := range one.img.Stack() {
				err := l.EnsureBlob(t.Context(), layer.Blobs[0].Digest, layer.Blobs[0].Size, func(_ context.Context, p *Partial) error {
					count(&fetched, layer.Blobs[0].Digest)
					_, err := p.Write(one.blobs[layer.Blobs[0].Digest])
					return err
				})
				if err != nil {
					t.Error(err)
				}
				err = l.EnsureLayer(t.Context(), layer, func(_ context.Context, f *os.File) (Made, error) {
					count(&made, layer.ID)
					_, err := f.Write(one.layers[layer.ID])
					return Made{DiffIDs: layer.DiffIDs}, err
				})
				if err != nil {
					t.Error(err)
				}
			}
			if err := newSample("one", "base", "top").addWith(t.Context(), l); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for name, m := range map[string]*sync.Map{"fetched": &fetched, "made": &made} {
		m.Range(func(d, n any) bool {
			if n := n.(*atomic.Int64).Load(); n != 1 {
				t.Errorf("%s was %s %d times", d, name, n)
			}
			return true
		})
	}
	one.intact(t, s)
	clean(t, s)
}
