package sandbox

import (
	"strconv"

	"github.com/vc-runtime/vc-runtime/state"
)

// scoreVM has the host's OOM killer take the machine when it would take the
// first of its containers: by the highest of their scores (process.oomScoreAdj),
// since all of them go with it. Without any it is that of whoever made the
// sandbox, as a process's would be.
func (s *Sandbox) scoreVM(vm state.Process) {
	s.mu.Lock()
	score, told := s.oomScore, false
	for _, c := range s.containers {
		if c.oomScore != nil && (!told || *c.oomScore > score) {
			score, told = *c.oomScore, true
		}
	}
	s.mu.Unlock()
	if _, err := s.setOOMScore(strconv.Itoa(vm.Pid), score); err != nil {
		s.log.WithError(err).Debug("the machine's OOM score")
	}
}
