// Package signals reads signals as people and images write them.
package signals

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The real-time signals, as glibc counts them (signal(7)): the two below are
// the threading library's.
const (
	rtMin unix.Signal = 34
	rtMax unix.Signal = 64
)

// signalAliases are second names of signals (signal(7)).
var signalAliases = map[string]unix.Signal{
	"SIGIOT":    unix.SIGABRT,
	"SIGCLD":    unix.SIGCHLD,
	"SIGPOLL":   unix.SIGIO,
	"SIGUNUSED": unix.SIGSYS,
}

// Default stands for the signal that a container wants to be ended by.
const Default unix.Signal = -1

// Parse reads a signal as kill(1) does: a number, 0 being the probe, or
// a name in any case, with or without SIG, such as term, SIGKILL or RTMIN+3.
func Parse(text string) (unix.Signal, error) {
	unknown := fmt.Errorf("unknown signal %q", text)
	if n, err := strconv.Atoi(text); err == nil {
		if n < 0 || n > int(rtMax) || text[0] == '+' {
			return 0, unknown
		}
		return unix.Signal(n), nil
	}
	full := "SIG" + strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if sig, ok := signalAliases[full]; ok {
		return sig, nil
	}
	if sig := unix.SignalNum(full); sig != 0 {
		return sig, nil
	}
	if sig, ok := parseRealTime(full); ok {
		return sig, nil
	}
	return 0, unknown
}

// parseRealTime reads SIGRTMIN, SIGRTMIN+n, SIGRTMAX and SIGRTMAX-n.
func parseRealTime(full string) (unix.Signal, bool) {
	var offset string
	base := rtMin
	if rest, ok := strings.CutPrefix(full, "SIGRTMIN"); ok {
		if rest != "" && rest[0] != '+' {
			return 0, false
		}
		offset = rest
	} else if rest, ok := strings.CutPrefix(full, "SIGRTMAX"); ok {
		if rest != "" && rest[0] != '-' {
			return 0, false
		}
		base, offset = rtMax, rest
	} else {
		return 0, false
	}
	if offset == "" {
		return base, true
	}
	n, err := strconv.Atoi(offset) // takes the sign along
	sig := base + unix.Signal(n)
	return sig, err == nil && sig >= rtMin && sig <= rtMax
}
