package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// goal is what is wanted of vc-runtime, and what it has been measured to be.
type goal struct {
	part, what string
	atMost     float64
	of         string // what atMost is made of
	is         float64
	unit       string
}

// peerGoals are those that are told in a peer's time, or in ms where there is none.
var peerGoals = []struct {
	part, column, what, peer string
	factor                   float64
}{
	{"cycle", "total", "create, start, wait, delete of `true`", "runsc", 1},
	{"ops", "kill KILL", "KILL until the rootfs is released", "", 100},
	{"ops", "exec", "exec of `true`", "runsc", 2},
	{"ops", "state", "`state`", "runc", 1.5},
	{"ops", "--version", "`--version`", "runc", 1.5},
}

// What is wanted beside those.
const (
	memoryLimit = 60e3 // kB of PSS that a further container adds
	manyFactor  = 1.2  // of one alone, for each of many
	bootFactor  = 1.15 // of QEMU with an init that does nothing
	imageFactor = 0.6  // of the first guest image's boot
)

// compare notes the goals of a part, for each of our runtimes whose peer was
// measured as well.
func (b *bench) compare(part string, values samples) {
	for _, g := range peerGoals {
		peer := slices.IndexFunc(b.rts, func(rt string) bool { return title(rt) == g.peer })
		if g.part != part || g.peer != "" && peer < 0 {
			continue
		}
		atMost, of := g.factor, ""
		if g.peer != "" {
			theirs := median(values[b.rts[peer]][g.column])
			atMost, of = g.factor*theirs, fmt.Sprintf("%v × %s's %.0f", g.factor, g.peer, theirs)
		}
		for _, rt := range b.rts {
			if isOurs(rt) {
				b.goals = append(b.goals, goal{part, g.what + ": " + title(rt), atMost, of, median(values[rt][g.column]), "ms"})
			}
		}
	}
}

// isOurs tells our runtime, under whatever name it is measured, from its peers.
func isOurs(rt string) bool { return strings.HasPrefix(title(rt), "vc-runtime") }

// memoryGoal notes what each further container adds, in kB.
func (b *bench) memoryGoal(rt string, further float64) {
	if isOurs(rt) {
		b.goals = append(b.goals, goal{"memory", "PSS that each further sandbox adds", memoryLimit / 1e3, "", further / 1e3, "MB"})
	}
}

// manyGoal notes what a container costs alone, and among the most at once, in ms.
func (b *bench) manyGoal(rt string, alone, together float64) {
	if isOurs(rt) {
		what := fmt.Sprintf("%d at once, for each", slices.Max(b.counts))
		b.goals = append(b.goals, goal{"many", what, manyFactor * alone, fmt.Sprintf("%v × one alone, %.0f", manyFactor, alone), together, "ms"})
	}
}

// bootGoals notes the CPU time of a boot, in ms, beside those of QEMU by hand, of
// bare QEMU, and of the first image.
func (b *bench) bootGoals(image string, byHand, bare, ours, first float64) {
	name := filepath.Base(image)
	note := func(what string, factor, other float64) {
		b.goals = append(b.goals, goal{"boot", "cold boot of " + name + ", CPU time", factor * other, fmt.Sprintf("%v × %s %.0f", factor, what, other), ours, "ms"})
	}
	note("QEMU by hand,", bootFactor, byHand)
	note("bare QEMU,", bootFactor, bare)
	if image != b.images[0] {
		note(filepath.Base(b.images[0])+"'s", imageFactor, first)
	}
}

// printGoals prints what has become of the goals of the parts that were measured
// before.
func (b *bench) printGoals() error {
	fmt.Printf("What is not above 1 in the last column is met:\n\n| | at most | is | is/at most | `-what` |\n|---|---|---|---|---|\n")
	for _, g := range b.goals {
		of := ""
		if g.of != "" {
			of = " (" + g.of + ")"
		}
		fmt.Printf("| %s | %.0f %s%s | %.0f %s | %.2f | `%s` |\n", g.what, g.atMost, g.unit, of, g.is, g.unit, g.is/g.atMost, g.part)
	}
	return nil
}
