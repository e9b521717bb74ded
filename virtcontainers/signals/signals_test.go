package signals

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	good := map[string]unix.Signal{
		"0": 0, "9": unix.SIGKILL, "15": unix.SIGTERM, "64": 64, "037": 37,
		"KILL": unix.SIGKILL, "SIGKILL": unix.SIGKILL, "sigkill": unix.SIGKILL, "kill": unix.SIGKILL,
		"Term": unix.SIGTERM, "hup": unix.SIGHUP, "usr1": unix.SIGUSR1, "WINCH": unix.SIGWINCH,
		"iot": unix.SIGABRT, "CLD": unix.SIGCHLD, "poll": unix.SIGIO, "PWR": unix.SIGPWR,
		"RTMIN": 34, "SIGRTMIN": 34, "rtmin+0": 34, "RTMIN+3": 37, "RTMIN+30": 64,
		"RTMAX": 64, "sigrtmax-1": 63, "RTMAX-30": 34,
	}
	for text, want := range good {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	bad := []string{"", "-1", "+9", "65", "1e1", "9x", "x", "SIG", "SIGSIGKILL", "SIG9", "RTMIN3", "RTMIN-1",
		"RTMIN+31", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN+x", "RTMIN+-1", "KILL ", "99999999999999999999"}
	for _, text := range bad {
		if got, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", text, got)
		}
	}
	if _, err := Parse("x"); err == nil || err.Error() != `unknown signal "x"` {
		t.Errorf("the text is %v, want runc's", err)
	}
}
