package main

import (
	"slices"
	"strings"
	"testing"
)

// Goals are told in the peer's median, for each of our runtimes, and left out where the
// peer was not measured.
func TestCompare(t *testing.T) {
	ours, spares, runsc := "/bin/vc-runtime --x", "/tmp/vc-runtime-spares", "runsc --network=none"
	values := samples{
		ours: {"exec": {90, 100, 300}, "kill KILL": {50}}, spares: {"exec": {40}, "kill KILL": {150}}, runsc: {"exec": {20, 40}, "kill KILL": {1}},
	}
	for _, rt := range values {
		rt["state"], rt["--version"] = []float64{1}, []float64{1}
	}
	b := &bench{rts: list{runsc, ours, spares}}
	b.compare("ops", values)
	var got []string
	for _, g := range b.goals {
		name, _, _ := strings.Cut(g.what, " ")
		got = append(got, name)
		switch {
		case g.what == "exec of `true`: vc-runtime" && (g.atMost != 60 || g.is != 100),
			g.what == "exec of `true`: vc-runtime-spares" && (g.atMost != 60 || g.is != 40),
			strings.HasPrefix(g.what, "KILL") && g.atMost != 100:
			t.Errorf("%+v", g)
		}
	}
	if want := []string{"KILL", "KILL", "exec", "exec"}; !slices.Equal(got, want) {
		t.Errorf("goals of %q, expected %q: runc was not measured", got, want)
	}
}

func TestMappingKind(t *testing.T) {
	for line, want := range map[string]string{
		"7f0000000000-7f0008000000 rw-s 00000000 00:01 42 /memfd:guest-memory (deleted)": guestMapping,
		"7f0000000000-7f0000001000 r-xp 00000000 08:01 42 /usr/lib/libc.so.6":            fileMapping,
		"7f0000000000-7f0040000000 rwxp 00000000 00:00 0":                                codeMapping,
		"7f0000000000-7f0040000000 rw-p 00000000 00:00 0":                                heapMapping,
		"5500000000-5500001000 rw-p 00000000 00:00 0 [heap]":                             heapMapping,
		"7ffe00000000-7ffe00001000 r-xp 00000000 00:00 0 [vdso]":                         heapMapping,
	} {
		if got := mappingKind(strings.Fields(line)); got != want {
			t.Errorf("%s: %s, expected %s", line, got, want)
		}
	}
}
