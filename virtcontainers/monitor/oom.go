package monitor

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// OOMScore is what a monitor and a shim make of their own oom_score_adj
// (proc(5)): they have little memory themselves, and it is they who tell the
// engine what has become of a container, and clean up. What the host's OOM
// killer is to take, if anything, is the machine. It is what the kubelet gives a
// pod's infrastructure, and not -1000: they can be killed if that is what it
// takes.
const OOMScore = -998

// SetOOMScore sets the oom_score_adj of a process, "self" for the caller's own,
// and gives what it was. Without CAP_SYS_RESOURCE it cannot be lowered: that is
// an error, and no harm.
func SetOOMScore(pid string, score int) (before int, err error) {
	path := "/proc/" + pid + "/oom_score_adj"
	b, err := os.ReadFile(path)
	if err == nil {
		before, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err == nil && before != score {
		err = os.WriteFile(path, []byte(strconv.Itoa(score)), 0)
	}
	if err != nil {
		return before, fmt.Errorf("set the OOM score of process %s to %d: %w", pid, score, err)
	}
	return before, nil
}
