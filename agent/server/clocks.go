package server

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"github.com/vc-runtime/vc-runtime/agent/timens"
)

// clocks are the offsets of a time namespace, as timens.New takes them; nil for
// a container without one.
type clocks []byte

// takeClocks takes the offsets of a time namespace out of linux: crun 1.8 does
// not know them.
func takeClocks(linux object) (clocks, error) {
	var offsets map[string]*struct {
		Secs     int64
		Nanosecs uint32
	}
	if err := linux.get("timeOffsets", &offsets); err != nil {
		return nil, err
	}
	delete(linux, "timeOffsets")
	k := clocks{}
	for _, clock := range slices.Sorted(maps.Keys(offsets)) {
		if clock != "monotonic" && clock != "boottime" || offsets[clock] == nil {
			return nil, fmt.Errorf("timeOffsets: clock %.100q: %w", clock, errSpec)
		}
		k = fmt.Appendf(k, "%s %d %d\n", clock, offsets[clock].Secs, offsets[clock].Nanosecs)
	}
	return k, nil
}

// namespace makes the time namespace, if there is to be one.
func (k clocks) namespace() (*timens.Namespace, error) {
	if k == nil {
		return nil, nil
	}
	ns, err := timens.New(k)
	if errors.Is(err, syscall.ERANGE) {
		return nil, fmt.Errorf("linux.timeOffsets: a clock would start before 0, or in too many years: %w", err)
	}
	return ns, err
}
