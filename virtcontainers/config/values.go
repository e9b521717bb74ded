package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a time that may be infinite. In the file it is "10s", "1m30s"
// (time.ParseDuration) or "infinity".
type Duration struct{ d time.Duration } // math.MaxInt64 is infinite

// Seconds makes a Duration.
func Seconds(s float64) Duration { return Duration{time.Duration(s * float64(time.Second))} }

var infinity = Duration{math.MaxInt64}

// forever is 146 years: what is longer is taken for infinite, so that a time
// can be added to one that is finite.
const forever = time.Duration(1 << 62)

func durationOf(d time.Duration) Duration {
	if d >= forever {
		return infinity
	}
	return Duration{d}
}

// Infinite reports whether the time never ends.
func (d Duration) Infinite() bool { return d == infinity }

// Std is the time; the longest there is where it is infinite.
func (d Duration) Std() time.Duration { return d.d }

func (d Duration) String() string {
	if d.Infinite() {
		return "infinity"
	}
	return d.d.String()
}

// MarshalText is the form in the file.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the form in the file.
func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == "infinity" {
		*d = infinity
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil || v < 0 {
		return fmt.Errorf("%q: expected a time such as \"10s\", or \"infinity\"", text)
	}
	*d = durationOf(v)
	return nil
}

// Size is an amount of memory in bytes. In the file it is "256M" or "1G",
// binary units.
type Size uint64

const (
	MiB Size = 1 << 20
	GiB Size = 1 << 30
)

func (s Size) String() string {
	switch {
	case s%GiB == 0:
		return strconv.FormatUint(uint64(s/GiB), 10) + "G"
	case s%MiB == 0:
		return strconv.FormatUint(uint64(s/MiB), 10) + "M"
	}
	return strconv.FormatUint(uint64(s), 10)
}

// MarshalText is the form in the file.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the form in the file.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := string(text), Size(1)
	if n, ok := strings.CutSuffix(number, "G"); ok {
		number, unit = n, GiB
	} else if n, ok := strings.CutSuffix(number, "M"); ok {
		number, unit = n, MiB
	}
	v, err := strconv.ParseUint(number, 10, 64)
	if err != nil || unit == 1 || v > 1<<20 {
		return fmt.Errorf("%q: expected an amount of memory such as \"256M\" or \"1G\"", text)
	}
	*s = Size(v) * unit
	return nil
}
