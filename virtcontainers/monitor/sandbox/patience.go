package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// patience is a deadline for what makes progress, on a host that may have
// better things to do: its clock stands still while our processes are ready to
// run and the host has no CPU for them, and it begins anew with each sign of
// progress. So an overloaded host makes a start slow, and does not make it
// fail; a guest that hangs does.
type patience struct {
	limit time.Duration // without progress
	most  time.Duration // with progress: who prints for ever is no better
	cause error

	progress func() uint64 // grows; nil for none
	held     func() time.Duration
	tick     time.Duration
}

// mostRatio is how many times its limit something may take that makes progress.
const mostRatio = 10

// emulated is how many times a limit is longer for an emulated machine.
const emulated = 2

func newPatience(limit time.Duration, cause error, progress func() uint64) *patience {
	return &patience{
		limit: limit, most: mostRatio * limit, cause: cause, progress: progress,
		held: newStarvation().held,
		tick: min(max(limit/50, 20*time.Millisecond), time.Second),
	}
}

// watch gives a context that ends when the patience does. It is to be cancelled
// in any case.
func (p *patience) watch(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(p.tick)
		defer ticker.Stop()
		var total, idle time.Duration
		last, seen := time.Now(), p.read()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			now := time.Now()
			// Late ticks are ours: this process did not get a CPU either.
			spent := min(now.Sub(last), 2*p.tick)
			spent -= min(spent, p.held())
			last = now
			total += spent
			idle += spent
			if n := p.read(); n != seen {
				seen, idle = n, 0
			}
			if idle >= p.limit || total >= p.most {
				cancel(p.cause)
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled); <-done }
}

func (p *patience) read() uint64 {
	if p.progress == nil {
		return 0
	}
	return p.progress()
}

// starvation tells for how long threads of this process and of its children,
// which is QEMU, have waited for a CPU.
type starvation struct {
	root   string            // of proc(5)
	waited map[string]uint64 // by thread's folder: ns so far
}

func newStarvation() *starvation {
	s := &starvation{root: "/proc", waited: make(map[string]uint64)}
	s.held()
	return s
}

// held is the time since the last call in which the thread that was worst off
// waited. A kernel without CONFIG_SCHED_INFO does not tell: 0.
func (s *starvation) held() time.Duration {
	now := make(map[string]uint64)
	var worst uint64
	for _, pid := range s.processes() {
		threads, _ := filepath.Glob(filepath.Join(s.root, pid, "task", "*"))
		for _, dir := range threads {
			n, err := runDelay(dir)
			if err != nil {
				continue // it has ended
			}
			now[dir] = n
			// A thread that is new has waited since its begin.
			worst = max(worst, n-min(n, s.waited[dir]))
		}
	}
	s.waited = now
	return time.Duration(worst)
}

// processes are this one and its children.
func (s *starvation) processes() []string {
	pids := []string{"self"}
	lists, _ := filepath.Glob(filepath.Join(s.root, "self", "task", "*", "children"))
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, pid := range bytes.Fields(b) {
			pids = append(pids, string(pid))
		}
	}
	return pids
}

// runDelay reads how long a thread was ready to run and did not, in ns: the
// second field of schedstat (Documentation/scheduler/sched-stats).
func runDelay(dir string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(dir, "schedstat"))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("%s/schedstat: %q", dir, b)
	}
	return strconv.ParseUint(string(f[1]), 10, 64)
}
