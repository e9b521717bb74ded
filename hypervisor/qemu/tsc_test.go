package qemu

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestTSCFrequency measures a counter of a known frequency.
func TestTSCFrequency(t *testing.T) {
	const khz = 2_596_100
	begun := time.Now()
	counter := func() uint64 { return uint64(time.Since(begun)) * khz / 1e6 }
	tests := map[string]struct {
		read  func() uint64
		delay time.Duration // between two looks at the clock
		want  int
	}{
		"undisturbed": {read: counter, delay: 50 * time.Nanosecond, want: khz},
		"slow clock":  {read: counter, delay: 2 * time.Microsecond, want: khz},
		"never quiet": {read: counter, delay: time.Millisecond, want: 0},
		"stands":      {read: func() uint64 { return 7 }, delay: 50 * time.Nanosecond, want: 0},
		"no counter":  {want: 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun = time.Now()
				c := &tscClock{read: tt.read, base: begun, since: func(base time.Time) time.Duration {
					time.Sleep(tt.delay)
					return time.Since(base)
				}}
				if c.read != nil {
					c.begin = c.now()
				}
				got := c.kHz()
				if off := float64(got - tt.want); off < -tscError*khz || off > tscError*khz {
					t.Errorf("%d kHz, not %d", got, tt.want)
				}
				if took := time.Since(begun); took > 2*tscLimit {
					t.Errorf("took %s", took)
				}
			})
		})
	}
}

// TestTSCOfHost measures twice: the same counter has the same frequency.
func TestTSCOfHost(t *testing.T) {
	if tscCounter() == nil {
		t.Skip("NOT RUN: needs an x86-64 processor: only there guests are told the frequency of a time stamp counter")
	}
	a, b := measureTSC().kHz(), measureTSC().kHz()
	if a < 100_000 || a > 100_000_000 {
		t.Fatalf("%d kHz", a)
	}
	if off := float64(a-b) / float64(a); off < -4*tscError || off > 4*tscError {
		t.Errorf("%d kHz, then %d kHz", a, b)
	}
}
