package server

import (
	"strings"
	"testing"
)

// A rehearsal leaves nothing, and hosts can come afterwards.
func TestRehearse(t *testing.T) {
	r := newRig(t)
	if err := r.server.Rehearse(testContext(t), "t0", config("echo out; echo err >&2")); err != nil {
		t.Fatal(err)
	}
	r.wantNothing(t)
	r.create(t, "c", outputs, "exit 3")
	r.start(t, "c")
	r.wantExit(t, "c", "", 3)
	r.remove(t, "c")
	r.wantNothing(t)
}

func TestRehearseFails(t *testing.T) {
	for want, spec := range map[string][]byte{"rehearse: create": []byte("{}"), "exit code 4": config("exit 4")} {
		t.Run(want, func(t *testing.T) { // a reaper of its own
			err := newRig(t).server.Rehearse(testContext(t), "t0", spec)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %q", err, want)
			}
		})
	}
}
