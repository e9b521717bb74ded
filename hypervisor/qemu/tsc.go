package qemu

import (
	"math"
	"time"
)

const (
	// tscError is how wrong the measured frequency may be: 20 ppm, some seconds
	// a day.
	tscError = 20e-6
	// tscLimit is how long measuring may take: it takes some ms, unless the host
	// lets us not read both clocks together.
	tscLimit = time.Second
)

// tscClock measures the frequency of the host's time stamp counter. An
// emulated guest reads that very counter (QEMU: cpu_get_tsc), and has only
// emulated timers to find out its frequency at boot: where the host takes the
// CPU away at the wrong moment, the guest's time goes on several times as fast.
type tscClock struct {
	read  func() uint64 // the counter; nil where there is none
	since func(time.Time) time.Duration
	base  time.Time
	begin moment
}

// moment is a point of time on both clocks.
type moment struct {
	ticks uint64
	at    time.Duration // since the base
	doubt time.Duration // how much later it may have been
}

// measureTSC begins to measure, kHz ends it.
func measureTSC() *tscClock {
	c := &tscClock{read: tscCounter(), since: time.Since, base: time.Now()}
	if c.read != nil {
		c.begin = c.now()
	}
	return c
}

// now reads both clocks. Of some readings the one counts that was disturbed least.
func (c *tscClock) now() moment {
	best := moment{doubt: math.MaxInt64}
	for range 8 {
		before := c.since(c.base)
		ticks := c.read()
		if doubt := c.since(c.base) - before; doubt < best.doubt {
			best = moment{ticks: ticks, at: before, doubt: doubt}
		}
	}
	return best
}

// kHz is the counter's frequency, 0 if it could not be measured.
func (c *tscClock) kHz() int {
	if c.read == nil {
		return 0
	}
	for {
		end := c.now()
		span := end.at - c.begin.at
		need := time.Duration(float64(c.begin.doubt+end.doubt) / tscError)
		switch {
		case end.ticks <= c.begin.ticks || span > tscLimit:
			return 0
		case span >= need && span > 0:
			return int(math.Round(float64(end.ticks-c.begin.ticks) * 1e6 / float64(span)))
		}
		time.Sleep(min(need-span, tscLimit))
	}
}
