package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

var errOver = errors.New("over")

// patient is a patience of 20 ms whose host has no CPU for held of each tick.
func patient(progress func() uint64, held time.Duration) *patience {
	return &patience{
		limit: 20 * time.Millisecond, most: 200 * time.Millisecond, cause: errOver, tick: time.Millisecond,
		progress: progress, held: func() time.Duration { return held },
	}
}

func TestPatience(t *testing.T) {
	t.Run("nothing moves", func(t *testing.T) {
		ctx, cancel := patient(nil, 0).watch(t.Context())
		defer cancel()
		<-ctx.Done()
		if err := context.Cause(ctx); !errors.Is(err, errOver) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("progress for ever", func(t *testing.T) {
		var n atomic.Uint64
		begin := time.Now()
		ctx, cancel := patient(func() uint64 { return n.Add(1) }, 0).watch(t.Context())
		defer cancel()
		<-ctx.Done()
		if took := time.Since(begin); took < 200*time.Millisecond {
			t.Errorf("ended after %s, in spite of progress", took)
		}
	})
	t.Run("no CPU", func(t *testing.T) {
		ctx, cancel := patient(nil, time.Hour).watch(t.Context())
		defer cancel()
		select {
		case <-ctx.Done():
			t.Errorf("ended: %v", context.Cause(ctx))
		case <-time.After(300 * time.Millisecond): // 15 times the limit
		}
	})
	t.Run("late ticks", func(t *testing.T) {
		p := patient(nil, 0)
		first := true
		p.held = func() time.Duration { // this process is stopped for long, once
			if first {
				time.Sleep(10 * p.limit)
			}
			first = false
			return 0
		}
		begin := time.Now()
		ctx, cancel := p.watch(t.Context())
		defer cancel()
		<-ctx.Done()
		if took := time.Since(begin); took < 10*p.limit+p.limit/2 {
			t.Errorf("ended %s after the begin: the time that it was stopped counts", took)
		}
	})
	t.Run("in time", func(t *testing.T) {
		p := patient(nil, 0)
		p.limit, p.most = time.Hour, time.Hour
		ctx, cancel := p.watch(t.Context())
		cancel()
		if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

func TestStarvation(t *testing.T) {
	root := t.TempDir()
	thread := func(pid, tid string, wait int) {
		dir := filepath.Join(root, pid, "task", tid)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"schedstat": "1 " + strconv.Itoa(wait) + " 3\n", "children": ""} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	thread("self", "1", 100)
	thread("7", "7", 1000)
	thread("7", "8", 5000)
	if err := os.WriteFile(filepath.Join(root, "self/task/1/children"), []byte("7 "), 0o644); err != nil {
		t.Fatal(err)
	}
	s := &starvation{root: root, waited: make(map[string]uint64)}
	for i, want := range []time.Duration{5000, 0} {
		if got := s.held(); got != want {
			t.Errorf("call %d: %d ns, expected %d", i, got, want)
		}
	}
	thread("7", "7", 1300)
	thread("7", "8", 5200)
	if got := s.held(); got != 300 {
		t.Errorf("%d ns, expected those of the thread that waited longest, 300", got)
	}
	if _, err := runDelay("/proc/self"); err != nil {
		t.Errorf("this kernel: %v", err)
	}
}
